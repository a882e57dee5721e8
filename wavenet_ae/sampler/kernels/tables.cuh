// What a block reads beside matrices, and what it makes of it: tables of its own channels and rows, as `cuda/dealing.py`
// deals them. The first layer hears a few levels and needs no product; a frame's embedding is added to gates and output.
#pragma once
#include "draw.cuh"
#include "product.cuh"

constexpr int GATES = 2 * CHANNELS, LAGS = 2 * TAPS - 1;

__device__ constexpr int dilation(int layer) { return 1 << layer % STAGES; }
__device__ constexpr int window(int layer) {  // samples for which past taps are multiplied together
  return dilation(layer) < WINDOW ? dilation(layer) : WINDOW;
}

// A voice's last levels, the newest first, and how many there have been, up to TAPS.
struct Levels {
  float* at;

  __device__ __forceinline__ Levels(float* all, int voice) : at(all + voice * (LAGS + 1)) {}
  __device__ __forceinline__ void hear(int code) const {
    for (int lag = LAGS - 1; lag > 0; --lag) at[lag] = at[lag - 1];
    at[0] = (code - CODES / 2) / (CODES / 2.f);
    at[LAGS] = fminf(at[LAGS] + 1, TAPS);
  }
  // A row of a table for each of the last `lags`.
  __device__ __forceinline__ float times(const float* table, int rows, int row, int lags) const {
    float sum = 0;
    for (int lag = 0; lag < lags; ++lag) sum += table[lag * rows + row] * at[lag];
    return sum;
  }

  // Of the first layer: a channel's input and output, where `condition` is what the frame adds to its gates; and what the
  // first input says to the output.
  __device__ __forceinline__ float input(const float* own, int channel) const {
    return times(own + OWN_START, CHANNELS, channel, TAPS);
  }
  __device__ __forceinline__ float output(const float* own, const float* condition, int channel) const {
    const float* bias = own + OWN_FIRST_BIAS + (int)fminf(at[LAGS], TAPS - 1) * GATES;  // without levels before the first
    float sum[2];
    for (int half = 0; half < 2; ++half) {
      const int row = 2 * channel + half;
      sum[half] = condition[row] + bias[row] + times(own + OWN_FIRST, GATES, row, LAGS);
    }
    return gate(sum[0], sum[1]);
  }
  __device__ __forceinline__ float said(const float* own, int say) const {
    return own[OWN_SAID_BIAS + say] + times(own + OWN_SAID, SAYS, say, TAPS);
  }
};

// What a frame's embedding adds to the block's gates, [layer][voice][GATES], and to its rows of the output, [voice][SAYS].
struct Conditions {
  float* at;

  __device__ __forceinline__ float* gates(int layer, int voice) const { return at + (layer * VOICES + voice) * GATES; }
  __device__ __forceinline__ float* out(int voice) const { return at + LAYERS * VOICES * GATES + voice * SAYS; }
  // By the first `threads` of a block, from [voice][DIMS].
  __device__ __forceinline__ void hear(const float* table, const float* embedding, int threads) const {
    constexpr int ALL = LAYERS * GATES, ROWS = ALL + SAYS;
    for (int n = threadIdx.x; n < VOICES * ROWS; n += threads) {
      const int voice = n / ROWS, row = n % ROWS;
      float sum = table[TOLD_BIAS + row];
      for (int dim = 0; dim < DIMS; ++dim) sum += table[TOLD_WEIGHT + dim * ROWS + row] * embedding[voice * DIMS + dim];
      (row < ALL ? gates(row / GATES, voice)[row % GATES] : out(voice)[row - ALL]) = sum;
    }
  }
};
