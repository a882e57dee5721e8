// The one random decision, as `dice.draw` takes it: the first code whose cumulative probability exceeds the die.
#pragma once

constexpr int CODES = 256, CODES_A_LANE = CODES / 32;

// Zero all but the fewest likeliest odds that reach top_p together; of equals the lower code comes first.
__device__ __forceinline__ void keep_nucleus(double (&own)[CODES_A_LANE], double* odds, double top_p) {
  const int first = threadIdx.x % 32 * CODES_A_LANE;
  double before[CODES_A_LANE] = {}, total = 0;
  for (int n = 0; n < CODES_A_LANE; ++n) odds[first + n] = own[n];
  __syncwarp();
  for (int code = 0; code < CODES; ++code) {
    double other = odds[code];
    total += other;
#pragma unroll
    for (int n = 0; n < CODES_A_LANE; ++n)  // what is not negative is in the order of its bits
      if (bits(other) + (code < first + n) > bits(own[n])) before[n] += other;
  }
#pragma unroll
  for (int n = 0; n < CODES_A_LANE; ++n)
    if (before[n] >= top_p * total) own[n] = 0;
}

// One warp draws one voice's code; every lane returns it. `odds` is room for CODES numbers.
__device__ __forceinline__ int draw(const float* logits, double die, double temperature, double top_p, double* odds) {
  const int lane = threadIdx.x % 32, first = lane * CODES_A_LANE;
  int top = first;
  for (int n = 1; n < CODES_A_LANE; ++n) top = logits[first + n] > logits[top] ? first + n : top;
  for (int far = 16; far; far /= 2) {
    int other = __shfl_xor_sync(~0u, top, far);
    if (logits[other] > logits[top] || (logits[other] == logits[top] && other < top)) top = other;
  }
  if (temperature == 0) return top;
  auto heat = [=](float logit) { return temperature == 1 ? (double)logit : (double)logit / temperature; };
  const double highest = heat(logits[top]);
  double own[CODES_A_LANE], reached[CODES_A_LANE], sum = 0;
#pragma unroll
  for (int n = 0; n < CODES_A_LANE; ++n) own[n] = exp(heat(logits[first + n]) - highest);
  if (top_p < 1) keep_nucleus(own, odds, top_p);
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
  for (int far = 16; far; far /= 2) {
    int other = __shfl_xor_sync(~0u, last, far);
    last = other > last ? other : last;
    passed += __shfl_xor_sync(~0u, passed, far);
  }
  return passed < last ? passed : last;
}
