// Products of a few rows of weights with every voice's vector, by one warp. The order of every sum depends on the
// number of inputs alone: not on the voices, the block, the grid or the chunk.
#pragma once

__device__ constexpr int round_up_to_power(int n) { int p = 1; while (p < n) p *= 2; return p; }
constexpr int PLACES = round_up_to_power(VOICES);  // sums of a row, one a voice and zeros

struct alignas(16) Vector { unsigned word[4]; };  // 16 bytes of weights
struct alignas(16) Four { float at[4]; };

// Weight e of a vector in the format of so many bytes: float32, float16 or the upper half of a float32, a whole number.
template <int SIZE> __device__ __forceinline__ float weight(const Vector& v, int e);
template <> __device__ __forceinline__ float weight<4>(const Vector& v, int e) { return number(v.word[e]); }
template <> __device__ __forceinline__ float weight<2>(const Vector& v, int e) {
  unsigned word = v.word[e / 2];
  if (HALF) return half_number(e % 2 ? word >> 16 : word);
  return number(e % 2 ? word & 0xffff0000u : word << 16);
}
template <> __device__ __forceinline__ float weight<1>(const Vector& v, int e) {  // as the low byte of 2^23 + 128 + it
  return number(__byte_perm(v.word[e / 4] ^ 0x80808080u, 0x4b000000u, 0x7440 | e % 4)) - 8388736.f;
}

// Rows of weights, spread over a warp's registers.
template <int ROWS, int INPUTS, int SIZE>
struct Rows {
  static constexpr int LENGTH = INPUTS * SIZE / 16;  // vectors of a row
  static constexpr int EACH = (LENGTH + 31) / 32;
  Vector held[ROWS][EACH];

  // Start to load them; nothing waits until they are used.
  __device__ __forceinline__ void fetch(const Vector* rows, int first) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int r = 0; r < ROWS; ++r)
#pragma unroll
      for (int k = 0; k < EACH; ++k)
        if (k * 32 + lane < LENGTH) held[r][k] = rows[(first + r) * LENGTH + k * 32 + lane];
  }

  // Add each lane's part of their products with x[voice][INPUTS] to sum[row][voice].
  __device__ __forceinline__ void add(const float* x, float (&sum)[ROWS * PLACES]) const {
    const int lane = threadIdx.x % 32;
    if (!MULTIPLIES) return;
#pragma unroll
    for (int k = 0; k < EACH; ++k) {
      int at = k * 32 + lane;
      if (at >= LENGTH) continue;
#pragma unroll
      for (int v = 0; v < VOICES; ++v)
#pragma unroll
        for (int e = 0; e < 16 / SIZE; e += 4) {
          Four four = *(const Four*)(x + v * INPUTS + at * (16 / SIZE) + e);
#pragma unroll
          for (int r = 0; r < ROWS; ++r)
#pragma unroll
            for (int i = 0; i < 4; ++i)
              sum[r * PLACES + v] = fmaf(weight<SIZE>(held[r][k], e + i), four.at[i], sum[r * PLACES + v]);
        }
    }
  }
};

// Sums over all lanes: lane n * 32 / N has that of place n. Halves of the list change places on the way, so that no two
// lanes do the same work; every total is the same tree of additions whatever the length of the list.
template <int N> __device__ __forceinline__ float over_lanes(float (&sum)[N]) {
  int left = N;
#pragma unroll
  for (int far = 16; far; far /= 2) {
    if (left == 1) {
      sum[0] += __shfl_xor_sync(~0u, sum[0], far);
      continue;
    }
    left /= 2;
    bool upper = threadIdx.x & far;
#pragma unroll
    for (int n = 0; n < left; ++n) {
      float mine = upper ? sum[n + left] : sum[n], theirs = upper ? sum[n] : sum[n + left];
      sum[n] = mine + __shfl_xor_sync(~0u, theirs, far);
    }
  }
  return sum[0];
}

// Their products with x[voice][INPUTS], as `over_lanes` leaves them.
template <int ROWS, int INPUTS, int SIZE>
__device__ __forceinline__ float product(const Rows<ROWS, INPUTS, SIZE>& rows, const float* x) {
  float sum[ROWS * PLACES] = {};
  rows.add(x, sum);
  return over_lanes(sum);
}

// Whose sum over the lanes this lane has for a row of ROWS, if it is the lane to go on with it; else VOICES.
template <int ROWS> __device__ __forceinline__ int voice_of_lane(int row) {
  constexpr int LANES = 32 / (ROWS * PLACES);
  int lane = threadIdx.x % 32, n = lane / LANES - row * PLACES;
  return lane % LANES || n < 0 || n >= VOICES ? VOICES : n;
}

// e^x for |x| <= 80, relative error below 2e-7.
__device__ __forceinline__ float exponential(float x) {
  float n = (x * 1.442695041f + 12582912.f) - 12582912.f;  // adding 1.5 * 2^23 rounds to a whole number
  float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  float power = number((unsigned)((int)n + 127) << 23);
  return (((((0.00139376f * r + 0.0083693f) * r + 0.041666374f) * r + 0.16666589f) * r + 0.5f) * (r * r) + r + 1.f) * power;
}

// sigmoid(opened) * tanh(value) with one division, absolute error below 3e-7.
__device__ __forceinline__ float gate(float opened, float value) {
  float shut = exponential(-fminf(fmaxf(opened, -60.f), 60.f));
  float fall = exponential(-2.f * fminf(fmaxf(value, -10.f), 10.f));
  return (1.f - fall) / ((1.f + shut) * (1.f + fall));
}
