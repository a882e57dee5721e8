// How blocks tell each other numbers: a word is a number whose last bit says whose turn it is. Whoever sees the bit of this
// turn has the number; there is no other flag, no barrier between blocks and no atomic. A place is told something else
// only after everybody has heard what was there, so one bit is enough.
#pragma once
#include "patience.cuh"
#include "product.cuh"

constexpr bool PAIRED = BYTES < 4;        // input and output of a channel in one word, 16 bits each
constexpr int PLANES = PAIRED ? 1 : 2;    // words of a channel

__device__ __forceinline__ void tell(unsigned* to, float value, unsigned turn) {
  store_relaxed(to, bits(value) & ~1u | turn);
}
// Both numbers of a channel, if the lane has one. The lower half gives its last bit away, rounded to an even one.
__device__ __forceinline__ void tell_channel(bool tells, unsigned* to, int plane, float x, float z, unsigned turn) {
  if (PAIRED) {
    unsigned both = pair(z, fminf(fmaxf(x, -MOST_HALF), MOST_HALF));
    both += both & both >> 1 & 1;
    both = both & ~1u | turn;
    if (tells) store_relaxed(to, both);
  } else if (tells) {
    tell(to, x, turn);
    tell(to + plane, z, turn);
  }
}

// A channel's inputs x and outputs z out of what was told of four channels, `planes` quads of it.
__device__ __forceinline__ void part(const Quad* planes, Row& x, Row& z) {
  if (PAIRED) {
    const unsigned(&w)[4] = planes[0].at;
    z.word[0] = __byte_perm(w[0], w[1], 0x5410) & 0xfffefffeu, z.word[1] = __byte_perm(w[2], w[3], 0x5410) & 0xfffefffeu;
    x.word[0] = __byte_perm(w[0], w[1], 0x7632), x.word[1] = __byte_perm(w[2], w[3], 0x7632);
  } else {
#pragma unroll
    for (int n = 0; n < 4; ++n) x.word[n] = planes[0].at[n] & ~1u, z.word[n] = planes[PLANES - 1].at[n] & ~1u;
  }
}

// Until some warp of the block has announced a number, or hinted at it.
__device__ __forceinline__ void await(const int* place, int number, Patience& patience) {
  for (patience.tries = 0; announced(place) < number && patience.goes_on();) LOOK_FOR(place);
}
__device__ __forceinline__ void await_hint(const int* place, int number, Patience& patience) {
  for (patience.tries = 0; hinted(place) < number && patience.goes_on(); pause(100)) LOOK_FOR(place);
}

// A number whose last bit is set if a word of the quad is not of this turn.
__device__ __forceinline__ unsigned other(const Quad& q, unsigned turn) {
  return (q.at[0] ^ turn) | (q.at[1] ^ turn) | (q.at[2] ^ turn) | (q.at[3] ^ turn);
}
__device__ __forceinline__ bool is_last_bit_clear(unsigned u) { return !(opaque(u) & 1); }  // lest bits be looked at one by one
__device__ __forceinline__ bool is_of(const Quad& q, unsigned turn) { return is_last_bit_clear(other(q, turn)); }

// A quad, as soon as it is of this turn. The lane looks by itself: those whose quads have come ask no more.
__device__ __forceinline__ Quad hear(const unsigned* from, unsigned turn, Patience& patience) {
  constexpr int LOOKS = 8;  // between two questions whether to go on
  patience.tries = 0;
  while (true) {
    Quad q;
#pragma unroll
    for (int look = 0; look < LOOKS; ++look) {
      q = load_relaxed(from);
      if (!WAITS || is_of(q, turn)) return q;
      LOOK_FOR(from);
    }
    if (!patience.goes_on(LOOKS)) return q;
  }
}

// COUNT quads for each lane of a warp, the n-th from where(n), as soon as all are of this turn; if not ALL are there, those
// of which where(n) is null are zeros. Where they are many, a lane looks first at `probe`: all that a block tells in a turn
// it tells at once.
template <bool ALL, int COUNT, typename Where>
__device__ __forceinline__ void hear(Quad (&heard)[COUNT], Where where, const unsigned* probe, unsigned turn, Patience& patience) {
  auto is_there = [=](int n) { return ALL || where(n); };
  if constexpr (COUNT == 1) {
    heard[0] = is_there(0) ? hear(where(0), turn, patience) : Quad{};
  } else {
    hear(probe, turn, patience);
    __syncwarp();
#pragma unroll
    for (int n = 0; n < COUNT; ++n) heard[n] = is_there(n) ? load_relaxed(where(n)) : Quad{};
    [[maybe_unused]] auto missing = [&] {
      int n = 0;
      while (!is_there(n) || is_of(heard[n], turn)) ++n;
      return where(n);
    };
    while (WAITS) {
      unsigned others = 0;
#pragma unroll
      for (int n = 0; n < COUNT; ++n) others |= is_there(n) ? other(heard[n], turn) : 0;
      if (is_last_bit_clear(others)) break;
      LOOK_FOR(missing());
      if (!patience.goes_on()) break;
#pragma unroll
      for (int n = 0; n < COUNT; ++n)
        if (is_there(n) && !is_of(heard[n], turn)) heard[n] = load_relaxed(where(n));
    }
  }
  __syncwarp();
}

// A box of COUNT numbers, for all who hear to read.
template <int COUNT>
__device__ __forceinline__ void hear_box(const unsigned* box, float* to, unsigned turn, Patience& patience) {
  constexpr int EACH = (COUNT / 4 + HEARERS - 1) / HEARERS;
  static_assert(COUNT % 4 == 0, "whole quads");
  Quad heard[EACH];
  hear<COUNT % (4 * HEARERS) == 0>(heard, [=](int n) {
    int quad = n * HEARERS + (int)threadIdx.x;
    return quad < COUNT / 4 ? box + 4 * quad : nullptr;
  }, box + 4 * (threadIdx.x % (COUNT / 4)), turn, patience);
#pragma unroll
  for (int n = 0; n < EACH; ++n) {
    int quad = n * HEARERS + (int)threadIdx.x;
    if (quad >= COUNT / 4) continue;
    for (unsigned& word : heard[n].at) word &= ~1u;
    *(Quad*)(to + 4 * quad) = heard[n];
  }
}
