// The one random decision, as `dice.draw` takes it: the first code whose cumulative probability exceeds the die. All others
// wait for it, so nothing in it branches that eight codes of a lane could do side by side.
#pragma once
#include "machine.cuh"

constexpr int CODES = 256, CODES_A_LANE = CODES / 32;

// A whole number that is larger where a float is; of one such number, the other.
__device__ __forceinline__ int order(int bits) { return bits ^ (bits >> 31 & 0x7fffffff); }
__device__ __forceinline__ int order_of(float f) { return order((int)bits(f + 0.f)); }  // -0 is 0

// e^x of what is not positive, to an ulp; 0 where it would be below 1e-304, and of what is no number.
__device__ __forceinline__ double exp_of(double x) {
  constexpr double LOG2_E = 1.4426950408889634, WHOLE = 6755399441055744.0;  // what is added to it loses its fraction
  constexpr double LN_2 = 6.93147180369123816490e-01, REST = 1.90821492927058770002e-10;
  constexpr int DEGREE = 13;
  constexpr double ONE_BY_FACTORIAL[DEGREE + 1] = {
      1., 1., 1. / 2, 1. / 6, 1. / 24, 1. / 120, 1. / 720, 1. / 5040, 1. / 40320, 1. / 362880, 1. / 3628800, 1. / 39916800,
      1. / 479001600, 1. / 6227020800.};
  const double shifted = fmax(x, -701.) * LOG2_E + WHOLE, n = shifted - WHOLE;
  const double r = fma(-n, REST, fma(-n, LN_2, fmax(x, -701.)));
  double sum = ONE_BY_FACTORIAL[DEGREE];
#pragma unroll
  for (int k = DEGREE - 1; k >= 0; --k) sum = fma(sum, r, ONE_BY_FACTORIAL[k]);
  const unsigned long long power = (unsigned long long)bits(shifted) << 52;
  return x >= -700. ? number(bits(sum) + (long long)power) : 0.;
}

// Zero all but the fewest likeliest odds that reach top_p together; of equals the lower code comes first.
__device__ __forceinline__ void keep_nucleus(
    double (&own)[CODES_A_LANE], const int (&rank)[CODES_A_LANE], const float* logits, double* odds, double top_p) {
  const int lane = threadIdx.x % 32;
  double before[CODES_A_LANE] = {}, total = 0;
  for (int n = 0; n < CODES_A_LANE; ++n) total += odds[lane * CODES_A_LANE + n] = own[n];
  __syncwarp();
  for (int far = 16; far; far /= 2) total += __shfl_xor_sync(~0u, total, far);
#pragma unroll 4
  for (int code = 0; code < CODES; ++code) {
    const int whose = code / CODES_A_LANE, other = order_of(logits[code]) + (whose < lane);
    const double odd = whose == lane ? 0 : odds[code];  // a lane's own come below
#pragma unroll
    for (int n = 0; n < CODES_A_LANE; ++n)
      if (other > rank[n]) before[n] += odd;
  }
#pragma unroll
  for (int n = 0; n < CODES_A_LANE; ++n)
#pragma unroll
    for (int m = 0; m < CODES_A_LANE; ++m)
      if (rank[m] + (m < n) > rank[n]) before[n] += odds[lane * CODES_A_LANE + m];
#pragma unroll
  for (int n = 0; n < CODES_A_LANE; ++n)
    if (before[n] >= top_p * total) own[n] = 0;
}

// One warp draws one voice's code; every lane returns it. `odds` is room for CODES numbers.
__device__ __forceinline__ int draw(const float* logits, double die, double temperature, double top_p, double* odds) {
  const int lane = threadIdx.x % 32, first = lane * CODES_A_LANE;
  int rank[CODES_A_LANE], top = order_of(logits[first]), likeliest = CODES;
#pragma unroll
  for (int n = 0; n < CODES_A_LANE; ++n) {
    rank[n] = order_of(logits[first + n]);
    top = rank[n] > top ? rank[n] : top;
  }
  top = __reduce_max_sync(~0u, top);
  if (temperature == 0) {
    for (int n = CODES_A_LANE - 1; n >= 0; --n) likeliest = rank[n] == top ? first + n : likeliest;
    return __reduce_min_sync(~0u, likeliest);
  }
  const double cold = temperature == 1 ? 1. : 1. / temperature, highest = number((unsigned)order(top));
  double own[CODES_A_LANE], reached[CODES_A_LANE], sum = 0;
#pragma unroll
  for (int n = 0; n < CODES_A_LANE; ++n) own[n] = exp_of((logits[first + n] - highest) * cold);
  if (top_p < 1) keep_nucleus(own, rank, logits, odds, top_p);
  int last = 0, passed = 0;
#pragma unroll
  for (int n = 0; n < CODES_A_LANE; ++n) {
    reached[n] = sum += own[n];
    if (own[n] > 0) last = first + n;
  }
  for (int far = 1; far < 32; far *= 2) {
    double other = __shfl_up_sync(~0u, sum, far);
    if (lane >= far) sum += other;
  }
  double below = __shfl_up_sync(~0u, sum, 1), threshold = die * __shfl_sync(~0u, sum, 31);
#pragma unroll
  for (int n = 0; n < CODES_A_LANE; ++n) passed += (lane ? below : 0) + reached[n] <= threshold;
  last = __reduce_max_sync(~0u, last), passed = __reduce_add_sync(~0u, passed);
  return passed < last ? passed : last;
}
