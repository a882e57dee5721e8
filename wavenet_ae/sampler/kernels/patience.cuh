// Waits that end.
#pragma once
#include "machine.cuh"

// How long a lane has waited. One that has waited too long, or sees that another has, says so and waits no more: its block
// leaves at the end of the sample.
struct Patience {
  unsigned* lost;
  unsigned tries = 0;
  bool is_left = true;

  __device__ __forceinline__ explicit Patience(unsigned* lost) : lost(lost) {}
  // After `looks` in vain. Who has looked often, looks less often.
  __device__ __forceinline__ bool goes_on(unsigned looks = 1) {
    tries += looks;
    if (tries % 1024 < looks && (tries >= MOST_TRIES || peek(lost))) {
      *lost = 1;
      is_left = false;
    }
    if (tries > 1024) pause(tries / 64 < 1000 ? tries / 64 : 1000);
    return is_left;
  }
};
