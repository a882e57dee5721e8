// What the kernel needs of the machine under it. Tests run the kernel on a CPU and give their own of all this.
#pragma once

struct alignas(8) Two { unsigned at[2]; };
struct alignas(16) Quad { unsigned at[4]; };  // words told, or 16 bytes of weights
struct Sums { float at[4]; };                 // a lane's part of a tile of 16 rows by 8 columns

#ifndef ON_CPU
#define SHARED_MEMORY(name) extern __shared__ __align__(16) unsigned char name[]
#define LOOK_FOR(place)
// A number, or a place, of which the compiler does not know how it was made.
__device__ __forceinline__ unsigned opaque(unsigned u) {
  asm volatile("" : "+r"(u));
  return u;
}
__device__ __forceinline__ const unsigned* opaque(const unsigned* place) {
  asm volatile("" : "+l"(place));
  return place;
}
__device__ __forceinline__ unsigned bits(float f) { return __float_as_uint(f); }
__device__ __forceinline__ long long bits(double f) { return __double_as_longlong(f); }
__device__ __forceinline__ float number(unsigned u) { return __uint_as_float(u); }
__device__ __forceinline__ double number(long long l) { return __longlong_as_double(l); }
__device__ __forceinline__ Quad load_relaxed(const unsigned* from) {  // each of the four is whole; past the L1 cache
  Quad q;
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(q.at[0]), "=r"(q.at[1]), "=r"(q.at[2]), "=r"(q.at[3]) : "l"(from) : "memory");
  return q;
}
__device__ __forceinline__ void store_relaxed(unsigned* to, unsigned word) {
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" :: "l"(to), "r"(word) : "memory");
}
__device__ __forceinline__ unsigned peek(const unsigned* from) {
  unsigned word;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(word) : "l"(from) : "memory");
  return word;
}

// A number in shared memory by which some warps of a block say how far they are, and others wait for it.
__device__ __forceinline__ void announce(int* place, int number) {
  unsigned at = (unsigned)__cvta_generic_to_shared(place);
  asm volatile("st.release.cta.shared.s32 [%0], %1;" :: "r"(at), "r"(number) : "memory");
}
__device__ __forceinline__ int announced(const int* place) {
  unsigned at = (unsigned)__cvta_generic_to_shared(place);
  int seen;
  asm volatile("ld.acquire.cta.shared.s32 %0, [%1];" : "=r"(seen) : "r"(at) : "memory");
  return seen;
}
// The same where who waits looks for itself whether it is true: a hint when to look.
__device__ __forceinline__ void hint(int* place, int number) { *(volatile int*)place = number; }
__device__ __forceinline__ int hinted(const int* place) { return *(const volatile int*)place; }
__device__ __forceinline__ void pause(unsigned ns) { __nanosleep(ns); }
__device__ __forceinline__ void bring_near(const void* line) { asm volatile("prefetch.global.L2 [%0];" :: "l"(line)); }
__device__ __forceinline__ void bring_near_to_stay(const void* line) {  // others go first
  asm volatile("prefetch.global.L2::evict_last [%0];" :: "l"(line));
}
// The same of loads: what a policy is used for stays in that cache, or goes first.
using Policy = unsigned long long;
__device__ __forceinline__ Policy policy_of(bool stays) {
  Policy policy;
  if (stays) asm volatile("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
  else asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
__device__ __forceinline__ Quad load_constant(const Quad* from, Policy policy) {
  Quad q;
  asm("ld.global.nc.L2::cache_hint.v4.u32 {%0, %1, %2, %3}, [%4], %5;"
      : "=r"(q.at[0]), "=r"(q.at[1]), "=r"(q.at[2]), "=r"(q.at[3]) : "l"(from), "l"(policy));
  return q;
}

// 2^x, and 1 / x, to a few units in the last place.
__device__ __forceinline__ float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Barriers of some of a block's threads, whole warps: of all who come, or of one warp that waits for those who only arrive.
__device__ __forceinline__ void meet(int barrier, int threads) {
  __syncwarp();
  asm volatile("bar.sync %0, %1;" :: "r"(barrier), "r"(threads) : "memory");
}
__device__ __forceinline__ void arrive(int barrier, int threads) {
  asm volatile("bar.arrive %0, %1;" :: "r"(barrier), "r"(threads) : "memory");
}
__device__ __forceinline__ bool meet_and_vote(int barrier, int threads, bool vote) {  // whether anybody is for it
  int any;
  __syncwarp();
  asm volatile("{ .reg .pred p, q; setp.ne.s32 p, %1, 0; barrier.cta.red.or.pred q, %2, %3, p; selp.s32 %0, 1, 0, q; }"
               : "=r"(any) : "r"((int)vote), "r"(barrier), "r"(threads) : "memory");
  return any;
}

// Two floats as 16-bit numbers of the format, the first in the lower half; nearest, ties to even.
__device__ __forceinline__ unsigned pair(float low, float high) {
  unsigned both;
  if (HALF) asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  else asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}
// Four whole numbers of 8 bits as 16-bit floats: each as the low byte of 1024 + 128 + it.
__device__ __forceinline__ void widen(unsigned bytes, unsigned& first, unsigned& second) {
  unsigned shifted = bytes ^ 0x80808080u, off = 0x64806480u;
  first = __byte_perm(shifted, 0x64u, 0x4140), second = __byte_perm(shifted, 0x64u, 0x4342);
  asm("sub.f16x2 %0, %0, %1;" : "+r"(first) : "r"(off));
  asm("sub.f16x2 %0, %0, %1;" : "+r"(second) : "r"(off));
}

// sums += weights (16 rows by 16) x inputs (16 by 8 columns), by a warp. A lane g * 4 + t has rows g (`upper`) and g + 8
// (`lower`) of four columns of the weights, and those four inputs of column g; and of the sums, rows g and g + 8 of columns
// 2t and 2t + 1.
__device__ __forceinline__ void multiply(Sums& sums, const unsigned (&upper)[2], const unsigned (&lower)[2], const unsigned (&inputs)[2]) {
  float(&s)[4] = sums.at;
  if (HALF)
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(s[0]), "+f"(s[1]), "+f"(s[2]), "+f"(s[3])
        : "r"(upper[0]), "r"(lower[0]), "r"(upper[1]), "r"(lower[1]), "r"(inputs[0]), "r"(inputs[1]));
  else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(s[0]), "+f"(s[1]), "+f"(s[2]), "+f"(s[3])
        : "r"(upper[0]), "r"(lower[0]), "r"(upper[1]), "r"(lower[1]), "r"(inputs[0]), "r"(inputs[1]));
}
// The same of half as many inputs, floats of which the first 11 bits are read: two a lane.
__device__ __forceinline__ void multiply_floats(
    Sums& sums, const float (&upper)[2], const float (&lower)[2], const float (&inputs)[2]) {
  float(&s)[4] = sums.at;
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(s[0]), "+f"(s[1]), "+f"(s[2]), "+f"(s[3])
      : "r"(bits(upper[0])), "r"(bits(lower[0])), "r"(bits(upper[1])), "r"(bits(lower[1])), "r"(bits(inputs[0])),
        "r"(bits(inputs[1])));
}
#endif
