// A kernel's own source, on fibers, as functions that Python calls.
#include "fibers.hpp"
#include "constants.h"
#include KERNEL

extern "C" int run(const Call* call, int grid, int cluster, int shared, unsigned seed, long most_turns) {
  return launch(grid, THREADS, cluster, shared, seed, most_turns, [=] { speak(*call); });
}

// When a layer's window begins or is full, and where its numbers of a sample are.
extern "C" void find(int layer, long long t, int* found) {
#ifdef MAIL_CHANNELS
  found[0] = window(layer), found[1] = until_due(t, layer), found[2] = ahead_of(layer) + slot(t, layer);
  found[3] = (unsigned)t % RING, found[4] = turn_in_ring(t);
#else
  found[0] = window(layer), found[1] = !is_due(layer, t), found[2] = window_of(layer) + (int)(t & window(layer) - 1);
  found[3] = ring_of(layer) + slot(t, layer), found[4] = 0;
#endif
}
