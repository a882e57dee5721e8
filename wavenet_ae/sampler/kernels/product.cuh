// Products of weights with every voice's vector. The order of every sum depends on the number of inputs alone: not on the
// voices, the block, the grid or the chunk.
#pragma once
#include "machine.cuh"

__device__ constexpr int round_up_to_power(int n) { int p = 1; while (p < n) p *= 2; return p; }
__device__ constexpr int divide_up(int n, int by) { return (n + by - 1) / by; }
constexpr int GROUP = 16;                           // inputs of a tile
constexpr float MOST_HALF = HALF ? 65504.f : 3.3e38f;
constexpr int A_QUAD = 4 / BYTES;                   // groups of which a quad of weights holds a lane's four of a row

// A lane's four weights of one row and group, out of the quad that holds them.
struct Row {
  unsigned word[4];  // four floats, or in two words 16-bit numbers

  __device__ __forceinline__ Row() : word{} {}
  __device__ __forceinline__ Row(const Quad& q, int group) {
    const int at = group % A_QUAD;
    if (BYTES == 4)
#pragma unroll
      for (int n = 0; n < 4; ++n) word[n] = q.at[n];
    else if (BYTES == 2)
      word[0] = q.at[2 * at % 4], word[1] = q.at[2 * at % 4 + 1];
    else
      widen(q.at[at], word[0], word[1]);
  }
};

// Floats that are read together: as many as a power of two.
template <int COUNT> struct alignas(4 * COUNT) Some { float at[COUNT]; };

// The first 11 bits of a float's fraction, and what is left of it.
__device__ __forceinline__ void split(float whole, float& high, float& low) {
  high = number(bits(whole) & 0xffffe000u);
  low = whole - high;
}

// sums += 16 rows x a group of inputs of 8 columns.
__device__ __forceinline__ void add_product(Sums& sums, const Row& upper, const Row& lower, const Row& inputs) {
  if (BYTES < 4) {
    multiply(sums, {upper.word[0], upper.word[1]}, {lower.word[0], lower.word[1]}, {inputs.word[0], inputs.word[1]});
    return;
  }
#pragma unroll
  for (int n = 0; n < 4; n += 2) {  // in three steps, as exact as float32
    float high[3][2], low[3][2];
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      split(number(upper.word[n + k]), high[0][k], low[0][k]);
      split(number(lower.word[n + k]), high[1][k], low[1][k]);
      split(number(inputs.word[n + k]), high[2][k], low[2][k]);
    }
    multiply_floats(sums, low[0], low[1], high[2]);
    multiply_floats(sums, high[0], high[1], low[2]);
    multiply_floats(sums, high[0], high[1], high[2]);
  }
}

__device__ __forceinline__ Sums operator+(const Sums& a, const Sums& b) {
  return {{a.at[0] + b.at[0], a.at[1] + b.at[1], a.at[2] + b.at[2], a.at[3] + b.at[3]}};
}

// sigmoid(opened) * tanh(value) with one division, absolute error below 1e-6; what is divided by stays below 2^111.
__device__ __forceinline__ float gate(float opened, float value) {
  constexpr float LOG2_E = 1.442695041f;
  float shut = power_of_two(fminf(-LOG2_E * opened, 80.f));
  float fall = power_of_two(fminf(-2.f * LOG2_E * value, 30.f));
  return (1.f - fall) * reciprocal((1.f + shut) * (1.f + fall));
}

// One row of float weights times x[voice][INPUTS], by a warp; the weights are on their way while x is waited for.
template <int INPUTS> struct SmallRow {
  static constexpr int LENGTH = INPUTS / 4, EACH = divide_up(LENGTH, 32);
  float4 held[EACH];

  __device__ __forceinline__ void fetch(const float4* rows, int row) {
#pragma unroll
    for (int k = 0; k < EACH; ++k)
      if (int at = k * 32 + (int)threadIdx.x % 32; at < LENGTH) held[k] = rows[row * LENGTH + at];
  }
  __device__ __forceinline__ float times(const float* x) const {
    float sum = 0;
#pragma unroll
    for (int k = 0; k < EACH; ++k) {
      int at = k * 32 + (int)threadIdx.x % 32;
      if (at >= LENGTH) continue;
      float4 four = *(const float4*)(x + 4 * at);
      sum = fmaf(held[k].x, four.x, fmaf(held[k].y, four.y, fmaf(held[k].z, four.z, fmaf(held[k].w, four.w, sum))));
    }
    for (int far = 16; far; far /= 2) sum += __shfl_xor_sync(~0u, sum, far);
    return sum;
  }
};
