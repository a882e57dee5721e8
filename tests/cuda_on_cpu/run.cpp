// The kernel's own source, on fibers, as a function that Python calls.
#include "fibers.hpp"
#include "constants.h"
#include "voices.cu"

extern "C" int run(const Call* call, int grid, int shared, unsigned seed) {
  return launch(grid, THREADS, shared, seed, [=] { speak(*call); });
}
