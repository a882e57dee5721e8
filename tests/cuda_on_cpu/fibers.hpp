// A CUDA grid on one CPU thread. Every CUDA thread is a fiber; barriers, shuffles, mails and waits hand over to another
// fiber, picked at random from a seed, and a mail arrives some time after it was sent, in any order. Most of the time
// some lanes of one warp are held back: they run only when nothing else can, so whoever fails to wait for them runs far
// ahead. Runs repeat exactly; a missing barrier shows as wrong numbers, a lost flag as a launch that gives up. It models
// neither time nor caches.
#pragma once
#include <algorithm>
#include <csetjmp>
#include <cmath>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <ucontext.h>
#include <vector>

#define ON_CPU
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __cluster_dims__(...)

struct Dim { int x; };
struct alignas(16) float4 { float x, y, z, w; };
inline Dim threadIdx, blockIdx, gridDim;

struct Fiber {
  ucontext_t begin;
  jmp_buf point;
  std::unique_ptr<char[]> stack;
  int block, thread, arrived = -1;  // at its cluster's meeting, and has not waited
  bool begun = false, done = false, held = false;
};
struct Meeting {  // of so many fibers; what they voted and brought is there until the next one ends
  std::vector<Fiber*> waiting;
  int came = 0, votes = 0, voted = 0, turn = 0;
  struct Brought { unsigned word[16]; } brought[2][32];
};
struct Block {
  Meeting all, some[4];  // of all threads, and by the number of a barrier
  std::vector<Meeting> warps;
  std::vector<unsigned char> shared;
};
struct Cluster {  // of blocks; what its threads wrote, others see at random, or when all have met
  std::vector<Fiber*> waiting;
  struct Write { int turn; std::function<void()> make; };  // and which meeting publishes it
  std::vector<Write> unpublished;
  int came = 0, turn = 0, there = 0;
};
inline std::vector<Cluster> clusters;
inline std::vector<std::function<void()>> letters;  // to the shared memory of some block, on their way
inline int cluster_size;
inline bool is_wrong;  // what a GPU would not forgive
inline std::vector<Fiber> fibers;
inline std::vector<Block> blocks;
inline std::vector<Fiber*> runnable, held_back;  // who could go on, and who could and may not
inline std::map<const void*, std::vector<Fiber*>> patient_ones;  // run again when something new is where they look
inline std::map<unsigned*, std::vector<unsigned>> under_way;  // in order, for each address
inline Fiber* now;
inline int threads;  // of a block
inline bool is_anybody_held;
inline jmp_buf scheduler;
inline std::mt19937 dice;
inline std::function<void()> body;

__attribute__((noinline)) inline void hand_over() {
  if (!_setjmp(now->point)) _longjmp(scheduler, 1);
}
inline void make_ready(Fiber* one) { (one->held ? held_back : runnable).push_back(one); }
inline void wake(std::vector<Fiber*>& those) {
  for (Fiber* one : those) make_ready(one);
  those.clear();
}
inline void yield() { make_ready(now); hand_over(); }
inline void come(Meeting& meeting, int of, bool waits) {
  if (waits) meeting.waiting.push_back(now);
  if (++meeting.came == of) {
    wake(meeting.waiting);
    meeting.came = 0;
    meeting.voted = meeting.votes;
    meeting.votes = 0;
    ++meeting.turn;
  }
  waits ? hand_over() : yield();
}
inline void meet(Meeting& meeting, int of) { come(meeting, of, true); }
inline void __syncthreads() { meet(blocks[now->block].all, threads); }
inline void meet(int barrier, int of) { meet(blocks[now->block].some[barrier], of); }
inline void arrive(int barrier, int of) { come(blocks[now->block].some[barrier], of, false); }
inline bool meet_and_vote(int barrier, int of, bool vote) {
  Meeting& some = blocks[now->block].some[barrier];
  some.votes |= vote;
  meet(some, of);
  return some.voted;
}
inline Meeting& warp() { return blocks[now->block].warps[now->thread / 32]; }
inline void __syncwarp() { meet(warp(), 32); }
// What every lane brought, for all to see.
template <typename T> const Meeting::Brought (&together(const T& value))[32] {
  static_assert(sizeof(T) <= sizeof(Meeting::Brought));
  Meeting& mine = warp();
  auto& brought = mine.brought[mine.turn % 2];
  std::memcpy(&brought[now->thread % 32], &value, sizeof(T));
  meet(mine, 32);
  return brought;
}
template <typename T> T from_lane(T value, int lane) {
  const auto& brought = together(value);
  std::memcpy(&value, &brought[lane], sizeof(T));
  return value;
}
template <typename T> T __shfl_xor_sync(unsigned, T value, int far) { return from_lane(value, now->thread % 32 ^ far); }
template <typename T> T __shfl_sync(unsigned, T value, int lane) { return from_lane(value, lane); }
template <typename T> T __shfl_up_sync(unsigned, T value, int by) {
  int lane = now->thread % 32;
  return from_lane(value, lane < by ? lane : lane - by);
}
inline bool __any_sync(unsigned, bool vote) {
  bool any = false;
  for (const auto& lane : together((unsigned)vote)) any |= lane.word[0];
  return any;
}
inline int __reduce_max_sync(unsigned, int value) {
  for (const auto& lane : together(value)) value = std::max(value, (int)lane.word[0]);
  return value;
}
inline int __reduce_min_sync(unsigned mask, int value) { return -__reduce_max_sync(mask, -value); }
inline int __reduce_add_sync(unsigned, int value) {
  int sum = 0;
  for (const auto& lane : together(value)) sum += (int)lane.word[0];
  return sum;
}
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  unsigned long long both = (unsigned long long)y << 32 | x;
  unsigned result = 0;
  for (int n = 0; n < 4; ++n) result |= (unsigned)(both >> 8 * (selector >> 4 * n & 7) & 255) << 8 * n;
  return result;
}

#define SHARED_MEMORY(name) unsigned char* name = blocks[now->block].shared.data()
#define LOOK_FOR(place) (patient_ones[place].push_back(now), hand_over())
template <typename T> T opaque(T t) { return t; }
inline unsigned bits(float f) { unsigned u; std::memcpy(&u, &f, 4); return u; }
inline long long bits(double f) { long long u; std::memcpy(&u, &f, 8); return u; }
inline float number(unsigned u) { float f; std::memcpy(&f, &u, 4); return f; }
inline double number(long long l) { double f; std::memcpy(&f, &l, 8); return f; }
template <typename Four> Four load_four(const unsigned* from) { return {{from[0], from[1], from[2], from[3]}}; }
#define load_relaxed load_four<Quad>
inline void store_relaxed(unsigned* to, unsigned word) { under_way[to].push_back(word); yield(); }
inline void announce(int* place, int number) {
  *place = number;
  wake(patient_ones[place]);
  yield();
}
inline int announced(const int* place) { return *place; }
inline void hint(int* place, int number) { announce(place, number); }
inline int hinted(const int* place) { return *place; }
inline void pause(unsigned) {}
inline void bring_near(const void*) {}
inline void bring_near_to_stay(const void*) {}
using Policy = bool;
inline Policy policy_of(bool stays) { return stays; }
template <typename Four> Four load_constant(const Four* from, Policy) { return *from; }
inline float power_of_two(float x) { return exp2f(x); }
inline float reciprocal(float x) { return 1 / x; }

// 16-bit numbers as a GPU has them.
inline float half_number(unsigned u) { _Float16 f; unsigned short s = u; std::memcpy(&f, &s, 2); return f; }
inline unsigned half_bits(float f) {
  _Float16 h = f;
  unsigned short s;
  std::memcpy(&s, &h, 2);
  return s;
}
inline unsigned bfloat_bits(float f) { return (bits(f) + 0x7fff + (bits(f) >> 16 & 1)) >> 16; }
template <bool HALF> unsigned pair_of(float low, float high) {
  return HALF ? half_bits(high) << 16 | half_bits(low) : bfloat_bits(high) << 16 | bfloat_bits(low);
}
template <bool HALF> float number_of_16(unsigned u) { return HALF ? half_number(u) : number(u << 16); }
#define pair pair_of<HALF>
inline void widen(unsigned bytes, unsigned& first, unsigned& second) {
  auto number = [=](int n) { return (float)(signed char)(bytes >> 8 * n); };
  first = pair_of<true>(number(0), number(1)), second = pair_of<true>(number(2), number(3));
}

// A tile of 16 rows by 8 columns of sums, a matrix product of what the lanes bring.
struct Brings { float upper[4], lower[4], inputs[4]; };
template <typename Four> void multiply_all(Four& sums, const Brings& mine, int each) {
  const auto& brought = together(mine);
  const int lane = now->thread % 32, row = lane / 4, column = lane % 4 * 2;
  for (int n = 0; n < 4; ++n)
    for (int t = 0; t < 4; ++t) {
      const Brings& weights = (const Brings&)brought[row * 4 + t];
      const Brings& inputs = (const Brings&)brought[(column + n % 2) * 4 + t];
      for (int k = 0; k < each; ++k) sums.at[n] += (n < 2 ? weights.upper : weights.lower)[k] * inputs.inputs[k];
    }
}
template <bool HALF, typename Four> void multiply_16(
    Four& sums, const unsigned (&upper)[2], const unsigned (&lower)[2], const unsigned (&inputs)[2]) {
  Brings mine;
  auto widened = [](const unsigned (&words)[2], float* to) {
    for (int n = 0; n < 4; ++n) to[n] = number_of_16<HALF>(words[n / 2] >> 16 * (n % 2) & 0xffff);
  };
  widened(upper, mine.upper), widened(lower, mine.lower), widened(inputs, mine.inputs);
  multiply_all(sums, mine, 4);
}
#define multiply multiply_16<HALF>
template <typename Four> void multiply_floats(
    Four& sums, const float (&upper)[2], const float (&lower)[2], const float (&inputs)[2]) {
  Brings mine;
  auto cut = [](const float (&from)[2], float* to) {
    for (int n = 0; n < 2; ++n) to[n] = number(bits(from[n]) & 0xffffe000u);
  };
  cut(upper, mine.upper), cut(lower, mine.lower), cut(inputs, mine.inputs);
  multiply_all(sums, mine, 2);
}
// Barriers that count bytes, letters to other blocks, and meetings of a cluster.
struct alignas(8) Barrier { int bytes; short due; unsigned char arrivals, turn; };
inline void settle(Barrier* barrier) {
  if (barrier->due || barrier->bytes) return;
  barrier->due = barrier->arrivals, barrier->turn ^= 1;
  wake(patient_ones[barrier]);
}
inline void begin(Barrier* barrier, int arrivals) { *barrier = {0, (short)arrivals, (unsigned char)arrivals, 0}; }
inline void expect(Barrier* barrier, int bytes) {
  barrier->bytes += bytes, --barrier->due;
  settle(barrier);
  yield();
}
inline void arrive(Barrier* barrier) { expect(barrier, 0); }
inline bool is_over(Barrier* barrier, int turn) { return barrier->turn != turn; }
inline bool is_over_by_peers(Barrier* barrier, int turn) { return is_over(barrier, turn); }
template <typename T> void send(void* place, const T& what, Barrier* barrier, int peer) {
  const int to = now->block / cluster_size * cluster_size + peer;
  auto there = [=](void* mine) { return blocks[to].shared.data() + ((unsigned char*)mine - blocks[now->block].shared.data()); };
  letters.push_back([to, at = there(place), what, counted = (Barrier*)there(barrier)] {
    bool is_there = false;
    for (int n = 0; n < threads; ++n) is_there |= !fibers[to * threads + n].done;
    is_wrong |= !is_there;
    std::memcpy(at, &what, sizeof what);
    counted->bytes -= sizeof what;
    settle(counted);
  });
  yield();
}
template <typename T> void copy_in(T* to, const T* from, int bytes, Barrier* barrier) {  // in two parts, in any order
  const int first = bytes / 32 * 16;
  for (int from_byte : {0, first})
    letters.push_back([=, size = from_byte ? bytes - first : first] {
      std::memcpy((char*)to + from_byte, (const char*)from + from_byte, size);
      barrier->bytes -= size;
      settle(barrier);
    });
  yield();
}
inline void let_copies_see() {}
inline void copy_out(void* place, int bytes, Barrier* barrier, int peer) {  // read when it arrives, part by part
  const int to = now->block / cluster_size * cluster_size + peer;
  auto there = [=](void* mine) { return blocks[to].shared.data() + ((unsigned char*)mine - blocks[now->block].shared.data()); };
  for (int n = 0; n < bytes; n += 16)
    letters.push_back([=, from = (unsigned char*)place + n, at = there(place) + n, counted = (Barrier*)there(barrier)] {
      std::memcpy(at, from, 16);
      counted->bytes -= 16;
      settle(counted);
    });
  yield();
}
inline void meet_cluster(Cluster& cluster) {
  if (cluster.came < cluster.there) return;
  std::vector<Cluster::Write> later;
  for (auto& write : cluster.unpublished)
    if (write.turn > cluster.turn) later.push_back(write);
    else write.make();
  cluster.unpublished = later;
  cluster.came = 0, ++cluster.turn;
  wake(cluster.waiting);
}
inline Cluster& cluster_of(const Fiber& one) { return clusters[one.block / cluster_size]; }
inline void publish_barriers() {}
inline void cluster_arrive() {
  Cluster& cluster = cluster_of(*now);
  is_wrong |= now->arrived >= 0;
  now->arrived = cluster.turn;
  ++cluster.came;
  meet_cluster(cluster);
  yield();
}
inline void cluster_wait() {
  Cluster& cluster = cluster_of(*now);
  is_wrong |= now->arrived < 0;
  if (cluster.turn == now->arrived) cluster.waiting.push_back(now), hand_over();
  now->arrived = -1;
}
template <typename T> void write_through(T* to, const T& what) {
  Cluster& cluster = cluster_of(*now);
  cluster.unpublished.push_back({cluster.turn + (now->arrived == cluster.turn), [=] { *to = what; }});
  yield();
}
inline void read_through(unsigned (&two)[2], const unsigned* from) { two[0] = from[0], two[1] = from[1]; }
template <int> void keep_registers() {}
template <int> void take_registers() {}
inline unsigned peek(const unsigned* word) { return *(volatile const unsigned*)word; }

inline void deliver_letter() {
  std::swap(letters[dice() % letters.size()], letters.back());
  auto one = std::move(letters.back());
  letters.pop_back();
  one();
}
inline void deliver() {
  if (!letters.empty()) return deliver_letter();
  auto one = std::next(under_way.begin(), dice() % under_way.size());
  *one->first = one->second.front();
  one->second.erase(one->second.begin());
  wake(patient_ones[(const void*)((size_t)one->first & ~(size_t)15)]);
  if (one->second.empty()) under_way.erase(one);
}
inline void enter() {
  body();
  now->done = true;
  is_wrong |= now->arrived >= 0;
  --cluster_of(*now).there;
  meet_cluster(cluster_of(*now));
  hand_over();
}

// Hold back some lanes of one warp, or nobody; the next choice is made after so many turns of theirs, or of anybody. Half
// a warp shows what its other half does not wait for.
inline long hold_back() {
  const unsigned kind = dice() % 4, warp = dice() % (fibers.size() / 32), lanes = dice();
  std::vector<Fiber*> ready;
  ready.swap(runnable);
  ready.insert(ready.end(), held_back.begin(), held_back.end());
  held_back.clear();
  for (size_t i = 0; i < fibers.size(); ++i)
    fibers[i].held = kind > 0 && i / 32 == warp && (kind > 1 || lanes >> i % 32 & 1);
  is_anybody_held = kind > 0;
  wake(ready);
  return is_anybody_held ? 1 << dice() % 12 : 1 << 14;
}

// Run `kernel` as grid x threads fibers, in clusters of `size` blocks. False if nothing can go on and some are still there,
// after too many turns, or if they did what may not be done.
inline bool launch(
    int grid, int block_threads, int size, int shared, unsigned seed, long most_turns, std::function<void()> kernel) {
  threads = block_threads, cluster_size = size, is_wrong = false, gridDim = {grid};
  dice.seed(seed);
  body = std::move(kernel);
  blocks.assign(grid, {});
  for (auto& block : blocks) block.warps.resize(threads / 32), block.shared.assign(shared, 0xff);  // NaN
  fibers.clear(), fibers.resize(grid * threads), runnable.clear(), held_back.clear();
  patient_ones.clear(), under_way.clear(), letters.clear();
  clusters.assign(grid / size, {});
  for (auto& one : clusters) one.there = size * threads;
  for (int i = 0; i < grid * threads; ++i) {
    Fiber& fiber = fibers[i];
    fiber.block = i / threads, fiber.thread = i % threads, fiber.stack.reset(new char[32768]);
    getcontext(&fiber.begin);
    fiber.begin.uc_stack.ss_sp = fiber.stack.get(), fiber.begin.uc_stack.ss_size = 32768;
    makecontext(&fiber.begin, enter, 0);
    runnable.push_back(&fiber);
  }
  volatile int left = grid * threads;
  volatile long turns = 0, until_change = 0;
  while (left) {
    if (turns++ == most_turns) return false;
    if (until_change <= 0) until_change = hold_back();
    const bool is_mail = !under_way.empty() || !letters.empty();
    if (is_mail && (runnable.empty() || dice() % 4 == 0)) deliver();
    if (runnable.empty() && is_mail) continue;  // mail first
    if (auto& some = clusters[dice() % clusters.size()].unpublished; !some.empty() && dice() % 4096 == 0) {
      std::swap(some[dice() % some.size()], some.back());
      some.back().make();
      some.pop_back();
    }
    if (runnable.empty() && held_back.empty())  // nothing will come: time passes
      for (auto& [place, those] : patient_ones) wake(those);
    auto& ready = runnable.empty() ? held_back : runnable;
    if (ready.empty()) return false;
    std::swap(ready[dice() % ready.size()], ready.back());
    now = ready.back();
    ready.pop_back();
    threadIdx = {now->thread}, blockIdx = {now->block};
    if (!_setjmp(scheduler)) {
      if (now->begun) _longjmp(now->point, 1);
      now->begun = true;
      setcontext(&now->begin);
    }
    left -= now->done;
    until_change -= now->held || !is_anybody_held;
  }
  while (!under_way.empty() || !letters.empty()) deliver();
  return !is_wrong;
}
