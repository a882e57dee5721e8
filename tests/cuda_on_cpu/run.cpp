// The kernel's own source, on fibers, as functions that Python calls.
#include "fibers.hpp"
#include "constants.h"
#include "voices.cu"

extern "C" int run(const Call* call, int grid, int shared, unsigned seed, long most_turns) {
  return launch(grid, THREADS, shared, seed, most_turns, [=] { speak(*call); });
}

// When a layer's window is full, and where its sums and words of a sample are.
extern "C" void find(int layer, long long t, int* found) {
  found[0] = window(layer), found[1] = until_due(t, layer), found[2] = ahead_of(layer) + slot(t, layer);
  found[3] = (unsigned)t % RING, found[4] = turn_in_ring(t);
}
