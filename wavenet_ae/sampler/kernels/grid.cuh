// How blocks tell each other numbers: a mail is a number and the sample it belongs to in one 8-byte word. Whoever sees
// the stamp has the number; there is no other flag, no barrier between blocks and no atomic.
#pragma once

typedef unsigned long long Mail;
struct alignas(16) TwoMails { Mail at[2]; };

#ifndef ON_CPU  // tests give a CPU's own of what follows
#define SHARED_MEMORY(name) extern __shared__ __align__(16) unsigned char name[]
#define GIVE_WAY()
__device__ __forceinline__ unsigned bits(float f) { return __float_as_uint(f); }
__device__ __forceinline__ float number(unsigned u) { return __uint_as_float(u); }
__device__ __forceinline__ float half_number(unsigned u) {  // of the lower half of a word
  float f;
  asm("{ .reg .b16 h, other; mov.b32 {h, other}, %1; cvt.f32.f16 %0, h; }" : "=f"(f) : "r"(u));
  return f;
}
__device__ __forceinline__ TwoMails load_relaxed(const Mail* from) {  // each of the two is whole; past the L1 cache
  TwoMails two;
  asm volatile("ld.relaxed.gpu.global.v2.u64 {%0, %1}, [%2];" : "=l"(two.at[0]), "=l"(two.at[1]) : "l"(from) : "memory");
  return two;
}
__device__ __forceinline__ void store_relaxed(Mail* to, Mail mail) {
  asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" :: "l"(to), "l"(mail) : "memory");
}
__device__ __forceinline__ unsigned peek(const unsigned* from) {
  unsigned word;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(word) : "l"(from) : "memory");
  return word;
}
#endif

__device__ __forceinline__ void post(Mail* to, float value, unsigned stamp) {
  store_relaxed(to, (Mail)stamp << 32 | bits(value));
}

// A thread that has waited too long, or sees that another has, says so and goes on: the block leaves at its next barrier.
__device__ __forceinline__ bool patient(unsigned& tries, unsigned* lost) {
  GIVE_WAY();
  bool goes_on = ++tries % 1024 || (tries < MOST_TRIES && !peek(lost));
  if (!goes_on) *lost = 1;
  return goes_on;
}

// Numbers 0 to count - 1, the n-th from the mail at where(n) once it is stamped stamp(n). All loads are under way
// before the first is waited for. False if this thread gave up. `count` is even, and at most MOST.
template <int MOST, typename Where, typename Stamp>
__device__ __forceinline__ bool take(Where where, Stamp stamp, int count, float* to, unsigned* lost) {
  constexpr int EACH = (MOST + 2 * THREADS - 1) / (2 * THREADS);
  TwoMails got[EACH];
  bool all = true;
  unsigned tries = 0;
#pragma unroll
  for (int k = 0; k < EACH; ++k) {
    int n = 2 * (k * THREADS + (int)threadIdx.x);
    if (n < count) got[k] = load_relaxed(where(n));
  }
#pragma unroll
  for (int k = 0; k < EACH; ++k) {
    int n = 2 * (k * THREADS + (int)threadIdx.x);
    if (n >= count) continue;
    unsigned due = stamp(n);
    while (WAITS && all && ((unsigned)(got[k].at[0] >> 32) != due || (unsigned)(got[k].at[1] >> 32) != due)) {
      all = patient(tries, lost);
      got[k] = load_relaxed(where(n));
    }
    to[n] = number((unsigned)got[k].at[0]);
    to[n + 1] = number((unsigned)got[k].at[1]);
  }
  return all;
}

// A whole box of COUNT numbers of one sample.
template <int COUNT>
__device__ __forceinline__ bool take_box(const Mail* box, float* to, unsigned stamp, unsigned* lost) {
  return take<COUNT>([=](int n) { return box + n; }, [=](int) { return stamp; }, COUNT, to, lost);
}

// The same for every thread of the block to read. False, to all of them, if any gave up.
template <int COUNT>
__device__ __forceinline__ bool collect(const Mail* box, float* to, unsigned stamp, unsigned* lost) {
  return !__syncthreads_or(!take_box<COUNT>(box, to, stamp, lost));
}
