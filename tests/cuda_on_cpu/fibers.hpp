// A CUDA grid on one CPU thread. Every CUDA thread is a fiber; barriers, shuffles, mails and waits hand over to another
// fiber, picked at random from a seed, and a mail arrives some time after it was sent, in any order. Runs repeat exactly;
// a missing barrier shows as wrong numbers, a lost flag as a launch that gives up. It models neither time nor caches.
#pragma once
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
#define THREADS 64  // of a block
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct Dim { int x; };
inline Dim threadIdx, blockIdx;

struct Fiber {
  ucontext_t begin;
  jmp_buf point;
  std::unique_ptr<char[]> stack;
  int block, thread;
  const void* looked_at = nullptr;  // the two mails that were not yet there
  bool begun = false, done = false;
};
struct Meeting {  // of so many fibers; what they voted and brought is there until the next one ends
  std::vector<Fiber*> waiting;
  int votes = 0, voted = 0, turn = 0;
  unsigned long long brought[2][32];
};
struct Block {
  Meeting all;
  std::vector<Meeting> warps;
  std::vector<unsigned char> shared;
};
inline std::vector<Fiber> fibers;
inline std::vector<Block> blocks;
inline std::vector<Fiber*> runnable;
inline std::map<const void*, std::vector<Fiber*>> patient_ones;  // run again when one of the mails they look at arrives
inline std::map<unsigned long long*, std::vector<unsigned long long>> under_way;  // in order, for each address
inline Fiber* now;
inline jmp_buf scheduler;
inline std::mt19937 dice;
inline std::function<void()> body;

__attribute__((noinline)) inline void hand_over() {
  if (!_setjmp(now->point)) _longjmp(scheduler, 1);
}
inline void wake(std::vector<Fiber*>& those) {
  runnable.insert(runnable.end(), those.begin(), those.end());
  those.clear();
}
inline void yield() { runnable.push_back(now); hand_over(); }
inline void meet(Meeting& meeting, int of) {
  meeting.waiting.push_back(now);
  if ((int)meeting.waiting.size() == of) {
    wake(meeting.waiting);
    meeting.voted = meeting.votes;
    meeting.votes = 0;
    ++meeting.turn;
  }
  hand_over();
}
inline int __syncthreads_or(int vote) {
  Meeting& all = blocks[now->block].all;
  all.votes |= vote;
  meet(all, THREADS);
  return all.voted;
}
inline void __syncthreads() { __syncthreads_or(0); }
inline Meeting& warp() { return blocks[now->block].warps[now->thread / 32]; }
inline void __syncwarp() { meet(warp(), 32); }
template <typename T> T from_lane(T value, int lane) {
  Meeting& mine = warp();
  unsigned long long(&brought)[32] = mine.brought[mine.turn % 2];
  std::memcpy(&brought[now->thread % 32], &value, sizeof(T));
  meet(mine, 32);
  std::memcpy(&value, &brought[lane], sizeof(T));
  return value;
}
template <typename T> T __shfl_xor_sync(unsigned, T value, int far) { return from_lane(value, now->thread % 32 ^ far); }
template <typename T> T __shfl_sync(unsigned, T value, int lane) { return from_lane(value, lane); }
template <typename T> T __shfl_up_sync(unsigned, T value, int by) {
  int lane = now->thread % 32;
  return from_lane(value, lane < by ? lane : lane - by);
}
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  unsigned long long both = (unsigned long long)y << 32 | x;
  unsigned result = 0;
  for (int n = 0; n < 4; ++n) result |= (unsigned)(both >> 8 * (selector >> 4 * n & 7) & 255) << 8 * n;
  return result;
}

#define SHARED_MEMORY(name) unsigned char* name = blocks[now->block].shared.data()
#define GIVE_WAY() (patient_ones[now->looked_at].push_back(now), hand_over())
inline unsigned bits(float f) { unsigned u; std::memcpy(&u, &f, 4); return u; }
inline float number(unsigned u) { float f; std::memcpy(&f, &u, 4); return f; }
inline float half_number(unsigned u) { _Float16 f; std::memcpy(&f, &u, 2); return f; }
template <typename Two> Two load_two(const unsigned long long* from) {
  now->looked_at = from;
  return {{from[0], from[1]}};
}
#define load_relaxed load_two<TwoMails>
inline void store_relaxed(unsigned long long* to, unsigned long long mail) { under_way[to].push_back(mail); yield(); }
inline unsigned peek(const unsigned* word) { return *(volatile const unsigned*)word; }

inline void deliver() {
  auto one = std::next(under_way.begin(), dice() % under_way.size());
  *one->first = one->second.front();
  one->second.erase(one->second.begin());
  wake(patient_ones[(const void*)((size_t)one->first & ~(size_t)15)]);
  if (one->second.empty()) under_way.erase(one);
}
inline void enter() { body(); now->done = true; hand_over(); }

// Run `kernel` as grid x THREADS fibers. False if some are still there when nothing can go on.
inline bool launch(int grid, int shared, unsigned seed, std::function<void()> kernel) {
  dice.seed(seed);
  body = std::move(kernel);
  blocks.assign(grid, {});
  for (auto& block : blocks) block.warps.resize(THREADS / 32), block.shared.assign(shared, 0xff);  // NaN
  fibers.clear(), fibers.resize(grid * THREADS), runnable.clear(), patient_ones.clear(), under_way.clear();
  for (int i = 0; i < grid * THREADS; ++i) {
    Fiber& fiber = fibers[i];
    fiber.block = i / THREADS, fiber.thread = i % THREADS, fiber.stack.reset(new char[32768]);
    getcontext(&fiber.begin);
    fiber.begin.uc_stack.ss_sp = fiber.stack.get(), fiber.begin.uc_stack.ss_size = 32768;
    makecontext(&fiber.begin, enter, 0);
    runnable.push_back(&fiber);
  }
  volatile int left = grid * THREADS;
  long picked = 0, starved = 0;
  while (left) {
    if (!under_way.empty() && (runnable.empty() || dice() % 4 == 0)) deliver();
    if (runnable.empty())  // nothing will come: time passes
      for (auto& [mail, those] : patient_ones) wake(those);
    if (runnable.empty()) return false;
    if (picked++ % 16384 == 0) starved = dice() % (grid * THREADS / 32);  // one warp falls far behind, as warps may
    unsigned long one = dice() % runnable.size();
    for (int n = 0; n < 4 && (runnable[one] - fibers.data()) / 32 == starved; ++n) one = dice() % runnable.size();
    std::swap(runnable[one], runnable.back());
    now = runnable.back();
    runnable.pop_back();
    threadIdx = {now->thread}, blockIdx = {now->block};
    if (!_setjmp(scheduler)) {
      if (now->begun) _longjmp(now->point, 1);
      now->begun = true;
      setcontext(&now->begin);
    }
    left -= now->done;
  }
  while (!under_way.empty()) deliver();
  return true;
}
