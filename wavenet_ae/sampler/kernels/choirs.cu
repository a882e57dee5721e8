// The decoder, a sample of some voices at a time, on clusters of blocks that stay. A cluster is a choir: it knows nothing of
// the others, holds its own voices' past, and its blocks own some channels of every layer. Sizes, and where things lie, are
// constants made by `clusters/layout.py`; a name that begins with OWN_, TOLD_ or SHARED_ is an offset into the memory of
// that name.
//
// A layer costs two exchanges: every block tells all of its choir the inputs x of its channels, then their outputs z. Numbers
// go straight into the others' shared memory, where a barrier counts their bytes. Weights do not fit there; but in which
// order they are needed is known, so a warp of its own (the feeder) copies them in, a piece at a time, as on a tape that
// goes round while the others (the singers) multiply. What the past adds to the gates of the samples of a window is
// computed at its beginning: weights of past taps are read once for all of them.
#include "cluster.cuh"
#include "tables.cuh"

constexpr int SPREAD = CHANNELS + SAYS;
constexpr int WARPS = KPARTS * MPARTS, SINGERS = 32 * WARPS;
constexpr int PLACES = VOICES < 8 ? round_up_to_power(VOICES) : divide_up(VOICES, 8) * 8;  // columns of the voices
constexpr int COLUMNS = divide_up(PLACES, 8);                                              // in eights
constexpr int GROUPS = WIDTH / GROUP, OWN_GROUPS = divide_up(GROUPS, KPARTS), QUADS = divide_up(OWN_GROUPS, A_QUAD);
constexpr int GATE_TILES = divide_up(GATES, 16), SPREAD_TILES = divide_up(SPREAD, 16);
constexpr int CELL = 64;  // quads of weights of 16 rows by A_QUAD groups: two of each lane
constexpr bool IS_EVEN = GROUPS % KPARTS == 0 && OWN_GROUPS % A_QUAD == 0;  // no part and no quad has fewer groups
constexpr int GATE_PIECE = KPARTS * GATE_TILES * CELL, SPREAD_PIECE = KPARTS * SPREAD_TILES * CELL;
constexpr int PIECE = GATE_PIECE > SPREAD_PIECE ? GATE_PIECE : SPREAD_PIECE;               // room for either
constexpr int PART = (GATE_TILES > SPREAD_TILES ? GATE_TILES : SPREAD_TILES) * 16 + 4;     // four: no bank conflicts
constexpr int NUMBER = BYTES < 4 ? 2 : 4, VECTOR = 16 / NUMBER;                            // bytes of an x; of them in a quad
constexpr int EACH = divide_up(CHANNELS * VOICES, SINGERS), EACH_SAY = divide_up(SAYS * VOICES, SINGERS);  // of a thread
constexpr bool GIVES = WARPS == 8 && THREADS == 384;  // as many registers as there are, where they are needed
constexpr int SLICE = CHANNELS * PLACES * NUMBER;  // bytes of a block's own channels among x or z
constexpr int BOX_BYTES = GATHERS ? (SIZE - 1) * SLICE : WIDTH * VOICES * NUMBER;  // that others tell
static_assert(!GATHERS || CHANNELS % GROUP == 0, "a block's own lie together");
static_assert(PIECE * 16 == PIECE_BYTES, "as it was laid out");
static_assert(CHANNELS % VECTOR == 0 && SAYS % 4 == 0 && WIDTH % GROUP == 0, "numbers are told in quads");

struct Call {
  const Quad* tape;                         // weights, [block of a choir]: see `Packed` in clusters/packing.py
  const float4 *out, *scores;               // [block of a choir]
  const float *own, *told;                  // [block of a choir]: what is used every sample, what is used every frame
  unsigned char* history;                   // [choir][slot][voice][WIDTH]: inputs of layers after the first
  float *ahead, *conditions, *memory;       // [block]: gates of a window, of a frame; [choir][voice][LAGS levels, age]
  unsigned* lost;                           // not 0: a block waited in vain
  const float* embedding;                   // [frame][choir][voice][DIMS]
  const double* uniform;                    // [choir][voice][sample]
  long long* code;                          // [choir][voice][sample]: written, or read if forced
  float* logits;                            // [sample][choir][voice][code], written if forced
  long long clock, frames, forced;
  double temperature, top_p;
};

__device__ constexpr bool is_due(int layer, long long t) { return TAPS > 1 && (t & window(layer) - 1) == 0; }
__device__ constexpr int ring(int layer) { return (TAPS - 1) * dilation(layer); }
__device__ constexpr int slot(long long t, int layer) {  // of a sample that may be as long before the first as the ring
  return (int)((TAPS - 1 & TAPS - 2) == 0 ? t & ring(layer) - 1 : (t + ring(layer)) % ring(layer));
}
// Where a layer's ring, or its window, begins among those of the layers from 1 on: a sum of dilations, at most 2^most each.
__device__ constexpr int exponent(int power) { int n = 0; while (power >> n > 1) ++n; return n; }
__device__ constexpr int in_a_stage(int layers, int most) {
  return layers <= most ? (1 << layers) - 1 : (1 << most) * (1 + layers - most) - 1;
}
__device__ constexpr int begin_of(int layer, int most) {
  return layer / STAGES * in_a_stage(STAGES, most) + in_a_stage(layer % STAGES, most) - 1;
}
__device__ constexpr int ring_of(int layer) { return (TAPS - 1) * begin_of(layer, 30); }
constexpr int WINDOW_EXPONENT = exponent(WINDOW);
__device__ constexpr int window_of(int layer) { return begin_of(layer, WINDOW_EXPONENT); }

// Boxes: what all of a choir tell each other in a sample. Each has a barrier, and is told anew only after all have heard it.
enum Box { INPUTS, OUTPUTS, SAID, HIDDEN, SCORED, CODE, BOXES };

// What a block has at hand.
struct Here {
  const Call& call;
  const int rank, choir, warp;
  unsigned char *inputs, *outputs;    // x and z, [group][place][16 channels]
  float *said, *hidden, *scored;      // [voice][SKIP], in the room of x and of z; [own voice][CODES]
  float *parts, *level, *own;
  double* odds;
  int* code;
  Barrier *box, *full, *empty;
  Quad* pieces;
  const Quad* tape;
  unsigned char* history;
  float* ahead;
  const Conditions told;

  __device__ Here(const Call& call, unsigned char* shared)
      : call(call), rank(blockIdx.x % SIZE), choir(blockIdx.x / SIZE),
        warp(__shfl_sync(~0u, (int)threadIdx.x / 32, 0)), inputs(shared + SHARED_INPUTS),
        outputs(shared + SHARED_OUTPUTS), said((float*)inputs), hidden((float*)outputs),
        scored((float*)(shared + SHARED_SCORED)), parts((float*)(shared + SHARED_PARTS)),
        level((float*)(shared + SHARED_LEVEL)), own((float*)(shared + SHARED_OWN)), odds((double*)(shared + SHARED_ODDS)),
        code((int*)(shared + SHARED_CODE)), box((Barrier*)(shared + SHARED_BARRIERS)), full(box + BOXES), empty(full + PIECES),
        pieces((Quad*)(shared + SHARED_PIECES)), tape(call.tape + rank * (long long)TAPE),
        history(call.history + choir * (long long)HISTORY * VOICES * WIDTH * NUMBER),
        ahead(call.ahead + blockIdx.x * (long long)AHEAD * VOICES * GATES),
        told{call.conditions + blockIdx.x * (long long)(LAYERS * GATES + SAYS) * VOICES} {}

  // What COUNT rows of a layer's matrix give: sums over all parts of the inputs. They begin among the layer's at `first`.
  template <int COUNT>
  __device__ __forceinline__ Some<COUNT> sums(int layer, int first, int row, int voice) const {
    auto part = [=](int k) { return *(const Some<COUNT>*)(parts + (k * PLACES + voice) * PART + row); };
    Some<COUNT> total = part(0);
#pragma unroll
    for (int k = 1; k < KPARTS; ++k) {
      const Some<COUNT> more = part(k);
      for (int n = 0; n < COUNT; ++n) total.at[n] += more.at[n];
    }
    for (int n = 0; n < COUNT && BYTES == 1; ++n) total.at[n] *= own[OWN_SCALE + layer * (GATES + SPREAD) + first + row + n];
    return total;
  }
  __device__ __forceinline__ Levels levels(int voice) const { return Levels(level, voice); }
  __device__ __forceinline__ float* ahead_of(int layer, long long t, int voice) const {
    return ahead + ((window_of(layer) + (int)(t & window(layer) - 1)) * VOICES + voice) * GATES;
  }
  __device__ __forceinline__ unsigned char* past(int layer, long long t, int voice, int channel) const {
    return history + (((ring_of(layer) + slot(t, layer)) * (long long)VOICES + voice) * WIDTH + channel) * NUMBER;
  }
  __device__ __forceinline__ int voices_drawn() const { return divide_up(VOICES - rank, SIZE); }
};

// Where the numbers of some channels of a voice lie among x or z, in bytes.
__device__ __forceinline__ int place(int channel, int voice) {
  return ((channel / GROUP * PLACES + voice) * GROUP + channel % GROUP) * NUMBER;
}

// Four lanes' numbers in a quad, as each of the four gets it; and the 16-bit numbers of eight lanes.
__device__ __forceinline__ Quad four_floats(float value) {
  const int lane = threadIdx.x;
  unsigned one = bits(value), next = __shfl_xor_sync(~0u, one, 1);
  unsigned low = lane & 1 ? next : one, high = lane & 1 ? one : next;
  unsigned far_low = __shfl_xor_sync(~0u, low, 2), far_high = __shfl_xor_sync(~0u, high, 2);
  return lane & 2 ? Quad{far_low, far_high, low, high} : Quad{low, high, far_low, far_high};
}
template <int COUNT> __device__ __forceinline__ void numbers(const float (&value)[COUNT], Quad (&q)[COUNT]) {
  const int lane = threadIdx.x;
  unsigned two[COUNT], far[COUNT], low[COUNT], high[COUNT];
  if (BYTES == 4) {
    for (int n = 0; n < COUNT; ++n) q[n] = four_floats(value[n]);
    return;
  }
#pragma unroll  // each step for all: they hide each other's latency
  for (int n = 0; n < COUNT; ++n) {
    const float clamped = fminf(fmaxf(value[n], -MOST_HALF), MOST_HALF), next = __shfl_xor_sync(~0u, clamped, 1);
    two[n] = lane & 1 ? pair(next, clamped) : pair(clamped, next);
  }
#pragma unroll
  for (int n = 0; n < COUNT; ++n) far[n] = __shfl_xor_sync(~0u, two[n], 2);
#pragma unroll
  for (int n = 0; n < COUNT; ++n) low[n] = lane & 2 ? far[n] : two[n], high[n] = lane & 2 ? two[n] : far[n];
#pragma unroll
  for (int n = 0; n < COUNT; ++n) {
    const unsigned far_low = __shfl_xor_sync(~0u, low[n], 4), far_high = __shfl_xor_sync(~0u, high[n], 4);
    q[n] = lane & 4 ? Quad{far_low, far_high, low[n], high[n]} : Quad{low[n], high[n], far_low, far_high};
  }
}
// A quad that `sharing` neighbouring lanes have, to all blocks: each lane tells some of them.
__device__ __forceinline__ void tell(const Here& here, Box box, void* place, const Quad& q, int sharing) {
  if (WAITS)
    for (int peer = threadIdx.x % sharing; peer < SIZE; peer += sharing) send(place, q, here.box + box, peer);
}

// How far a singer has come in what it hears: all of them wait for the same boxes in the same order, and so for each other,
// since a box is full only when all warps of all blocks have told their part.
struct Ears {
  Patience patience;
  unsigned turns = 0;

  __device__ __forceinline__ explicit Ears(unsigned* lost) : patience(lost) {}
  __device__ __forceinline__ void hear(const Here& here, Box box, int bytes) {
    if (!WAITS) return;
    if (threadIdx.x == 0 && patience.is_left) expect(here.box + box, bytes);
    await_peers(here.box + box, turns >> box & 1, patience);
    turns ^= 1u << box;
    __syncwarp();
  }
};

// The place on the tape that a warp has come to.
struct Tape {
  const Here& here;
  int at = 0, round = 0;

  __device__ __forceinline__ explicit Tape(const Here& here) : here(here) {}
  __device__ __forceinline__ const Quad* next(Patience& patience) {
    await(here.full + at, round & 1, patience);
    __syncwarp();
    return here.pieces + at * PIECE;
  }
  __device__ __forceinline__ void done() {  // the warp needs the piece no more
    __syncwarp();
    if (threadIdx.x % 32 == 0) arrive(here.empty + at);
    advance();
  }
  __device__ __forceinline__ void put(const Quad* from, int quads, Patience& patience) {
    await(here.empty + at, round + 1 & 1, patience);
    if (!patience.is_left) return;
    expect(here.full + at, 16 * quads);
    copy_in(here.pieces + at * PIECE, from, 16 * quads, here.full + at);
    advance();
  }
  __device__ __forceinline__ void advance() {
    if (++at == PIECES) at = 0, ++round;
  }
};

// The feeder: all weights, in the order in which the singers multiply by them.
__device__ void feed(const Here& here) {
  Patience patience(here.call.lost);
  Tape tape(here);
  for (long long sample = 0; sample < here.call.frames * HOP; ++sample) {
    if (threadIdx.x == SINGERS && MULTIPLIES) {
      const Quad* from = here.tape;
      for (int layer = 1; layer < LAYERS; ++layer)
        for (int n = 0; n < (TAPS - 1) * QUADS; ++n, from += GATE_PIECE)
          if (is_due(layer, here.call.clock + sample)) tape.put(from, GATE_PIECE, patience);
      for (int layer = 0; layer < LAYERS; ++layer) {
        if (layer)
          for (int n = 0; n < QUADS; ++n, from += GATE_PIECE) tape.put(from, GATE_PIECE, patience);
        for (int n = 0; n < QUADS; ++n, from += SPREAD_PIECE) tape.put(from, SPREAD_PIECE, patience);
      }
    }
    __syncwarp();
    if (sample) cluster_wait();
    cluster_arrive();
  }
  cluster_wait();
  if (threadIdx.x == SINGERS)  // nothing may come in after the block has left
    for (int n = 0; n < PIECES; ++n) {
      int rounds = tape.round + (n < tape.at);
      for (int looks = 0; rounds && looks < 1000 && !is_over(here.full + n, rounds - 1 & 1); ++looks) pause(1000);
    }
}

// A lane's four inputs of a column, from shared memory.
__device__ __forceinline__ Row inputs_at(const unsigned char* at) {
  Row row;
#pragma unroll
  for (int n = 0; n < NUMBER; n += 2) *(Two*)(row.word + n) = *(const Two*)(at + 4 * n);
  return row;
}
__device__ __forceinline__ Row inputs_through(const unsigned char* at) {
  Row row;
#pragma unroll
  for (int n = 0; n < NUMBER; n += 2) {
    unsigned two[2];
    read_through(two, (const unsigned*)at + n);
    row.word[n] = two[0], row.word[n + 1] = two[1];
  }
  return row;
}

// A lane's weights of a tile of rows and a quad of groups.
struct Cell {
  Quad held[2];  // its upper row's and its lower row's; of 16-bit numbers a group's both, as they are multiplied

  __device__ __forceinline__ Cell() {}
  __device__ __forceinline__ explicit Cell(const Quad* from) : held{from[0], from[32]} {}
  __device__ __forceinline__ Row row(int lower, int group) const {
    if (BYTES != 2) return Row(held[lower], group);
    Row row;
    row.word[0] = held[group].at[lower], row.word[1] = held[group].at[2 + lower];
    return row;
  }
};

// A matrix of TILES tiles of rows times x or z: each warp takes some groups of inputs and some tiles. As many weights as there
// is room for are taken from the tape before the inputs are waited for.
template <int TILES> struct Matrix {
  static constexpr int OWN_TILES = divide_up(TILES, MPARTS), ROOM = 8 / OWN_TILES;  // quads of groups: 16 words of a tile
  static constexpr int EARLY = QUADS < ROOM ? QUADS : ROOM;
  const Here& here;
  Tape& tape;
  Patience& patience;
  const int kpart, mpart;
  Cell held[EARLY ? EARLY : 1][OWN_TILES];
  Sums sums[OWN_TILES][COLUMNS] = {};

  __device__ __forceinline__ Matrix(const Here& here, Tape& tape, Patience& patience)
      : here(here), tape(tape), patience(patience), kpart(here.warp % KPARTS), mpart(here.warp / KPARTS) {
#pragma unroll
    for (int quad = 0; quad < EARLY && MULTIPLIES; ++quad) take(held[quad]);
  }

  // The next piece of the tape: a tile that is not there is taken for the last.
  __device__ __forceinline__ void take(Cell (&cells)[OWN_TILES]) {
    const Quad* piece = tape.next(patience) + threadIdx.x % 32;
#pragma unroll
    for (int own = 0; own < OWN_TILES; ++own) {
      const int there = is_tile(own) ? own * MPARTS + mpart : TILES - 1;
      cells[own] = Cell(piece + (kpart * TILES + there) * CELL);
    }
    tape.done();
  }
  __device__ __forceinline__ bool is_tile(int own) const {
    return (own + 1) * MPARTS <= TILES || own * MPARTS + mpart < TILES;
  }
  __device__ __forceinline__ void add(const Cell (&cells)[OWN_TILES], const unsigned char* x, int quad) {
#pragma unroll
    for (int k = 0; k < A_QUAD; ++k) {
      const int at = quad * A_QUAD + k;
      if (!IS_EVEN && (at >= OWN_GROUPS || kpart * OWN_GROUPS + at >= GROUPS)) continue;
      Row in[COLUMNS];
#pragma unroll
      for (int n = 0; n < COLUMNS; ++n)
        if (PLACES % 8 == 0 || n * 8 + (int)threadIdx.x % 32 / 4 < PLACES) in[n] = inputs_at(x + (at * PLACES + n * 8) * GROUP * NUMBER);
#pragma unroll
      for (int own = 0; own < OWN_TILES; ++own)
        if (is_tile(own))
#pragma unroll
          for (int n = 0; n < COLUMNS; ++n) add_product(sums[own][n], cells[own].row(0, k), cells[own].row(1, k), in[n]);
    }
  }

  __device__ __forceinline__ void times(const unsigned char* x) {
    if (!MULTIPLIES) return;
    const int lane = threadIdx.x % 32, column = lane / 4, t = lane % 4;
    x += ((kpart * OWN_GROUPS * PLACES + column) * GROUP + 4 * t) * NUMBER;
#pragma unroll
    for (int quad = 0; quad < EARLY; ++quad) add(held[quad], x, quad);
#pragma unroll 1
    for (int quad = EARLY; quad < QUADS; ++quad) {
      Cell cells[OWN_TILES];
      take(cells);
      add(cells, x, quad);
    }
    float* to = here.parts + (kpart * PLACES + 2 * t) * PART + mpart * 16 + column;
#pragma unroll
    for (int own = 0; own < OWN_TILES; ++own)
#pragma unroll
      for (int n = 0; n < COLUMNS; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i)
          if (is_tile(own) && (PLACES % 8 == 0 || n * 8 + 2 * t + i % 2 < PLACES))
            to[(n * 8 + i % 2) * PART + own * MPARTS * 16 + i / 2 * 8] = sums[own][n].at[i];
  }
};

// The past inputs that a sample begins with, from the GPU's memory to its cache: each block brings a part for all.
__device__ __forceinline__ void bring_past_near(const Here& here, long long t) {
  constexpr int LINE = 128, LINES = divide_up(VOICES * WIDTH * NUMBER, LINE);  // of all voices' inputs of a layer
  for (int layer = 1; layer < LAYERS; ++layer)
    if (is_due(layer, t))
      for (int n = threadIdx.x * SIZE + here.rank; n < (TAPS - 1) * window(layer) * LINES; n += SINGERS * SIZE) {
        const int tap = n / LINES / window(layer) + 1, sample = n / LINES % window(layer);
        bring_near(here.past(layer, t + sample - tap * dilation(layer), 0, 0) + n % LINES * LINE);
      }
}

// A piece of past taps times all inputs of a warp's columns, or of those of its first eights that are needed.
template <bool ALL, int EIGHTS, int COUNT>
__device__ __forceinline__ void add_past(
    Sums (&sums)[GATE_TILES][EIGHTS], const Row (&in)[COUNT][EIGHTS], int each, const Quad* piece, int needed) {
#pragma unroll
  for (int at = 0; at < GATE_TILES * KPARTS; ++at) {
    const int tile = at % GATE_TILES, kpart = at / GATE_TILES;
    const Cell cell(piece + at * CELL);
#pragma unroll
    for (int k = 0; k < A_QUAD; ++k)
#pragma unroll
      for (int n = 0; n < EIGHTS; ++n)
        if (ALL || n < needed)
          add_product(sums[tile][n], cell.row(0, k), cell.row(1, k), in[(each * KPARTS + kpart) * A_QUAD + k][n]);
  }
}

// At the beginning of a layer's window: what the past adds to its gates, for all samples of it. A warp takes some columns (a
// sample of a voice each) and all rows and inputs.
__device__ void recall(const Here& here, int layer, long long t, Tape& tape, Patience& patience) {
  constexpr int ALL = divide_up(WINDOW * PLACES, 8), EIGHTS = divide_up(ALL, WARPS);  // of columns; a warp's
  constexpr int A_PIECE = KPARTS * A_QUAD, MOST = 64 / (A_PIECE * EIGHTS * NUMBER);   // groups; pieces at once, by registers
  constexpr int AT_ONCE = MOST < 1 ? 1 : MOST < QUADS ? MOST : QUADS;
  const int lane = threadIdx.x % 32, column = lane / 4, lane_t = lane % 4, warp = here.warp;
  const int columns = window(layer) * PLACES, gap = dilation(layer);
  const int needed = divide_up(divide_up(columns, 8) - warp, WARPS);  // eights of this warp's
  auto column_of = [=](int n, int column) { return (n * WARPS + warp) * 8 + column; };
  Sums sums[GATE_TILES][EIGHTS] = {};
  for (int tap = 1; tap < TAPS; ++tap) {
    const unsigned char* from[EIGHTS];  // a lane's first inputs of a column, if it has one
#pragma unroll
    for (int n = 0; n < EIGHTS; ++n) {
      const int at_column = column_of(n, column), sample = at_column / PLACES, voice = at_column % PLACES;
      const bool is_there = at_column < columns && voice < VOICES;
      from[n] = is_there ? here.past(layer, t + sample - tap * gap, voice, 4 * lane_t) : nullptr;
    }
#pragma unroll 1
    for (int first = 0; first < QUADS; first += AT_ONCE) {
      Row in[AT_ONCE * A_PIECE][EIGHTS];
#pragma unroll
      for (int k = 0; k < AT_ONCE * A_PIECE; ++k) {
        const int kpart = k / A_QUAD % KPARTS, at = (first + k / A_PIECE) * A_QUAD + k % A_QUAD;
        const int group = kpart * OWN_GROUPS + at;
#pragma unroll
        for (int n = 0; n < EIGHTS; ++n)
          if (from[n] && (IS_EVEN || (at < OWN_GROUPS && group < GROUPS))) in[k][n] = inputs_through(from[n] + group * GROUP * NUMBER);
      }
#pragma unroll
      for (int each = 0; each < AT_ONCE; ++each) {
        if (first + each >= QUADS) break;
        const Quad* piece = tape.next(patience) + lane;
        if (needed == EIGHTS)
          add_past<true>(sums, in, each, piece, needed);
        else if (needed > 0)
          add_past<false>(sums, in, each, piece, needed);
        tape.done();
      }
    }
  }
#pragma unroll
  for (int tile = 0; tile < GATE_TILES; ++tile)
#pragma unroll
    for (int n = 0; n < EIGHTS; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int at = column_of(n, 2 * lane_t + i % 2), voice = at % PLACES, row = tile * 16 + column + i / 2 * 8;
        if (at >= columns || voice >= VOICES || row >= GATES) continue;
        float sum = sums[tile][n].at[i];
        if (BYTES == 1) sum *= here.own[OWN_PAST_SCALE + (layer - 1) * GATES + row];
        here.ahead_of(layer, t + at / PLACES, voice)[row] = sum;
      }
}

// What a singer knows of the block's own channels and rows of the skip.
struct Singer {
  const Here& here;
  Ears ears;
  Tape tape;
  float x[EACH], said[EACH_SAY];

  __device__ explicit Singer(const Here& here) : here(here), ears(here.call.lost), tape(here) {}

  __device__ __forceinline__ static bool is_own(int n, int each, int& voice, int& at) {
    int index = n * SINGERS + threadIdx.x;
    voice = index / each, at = index % each;
    return each * VOICES % SINGERS == 0 || voice < VOICES;
  }
  // Channels' numbers to all, and for samples to come.
  __device__ __forceinline__ void tell_channels(Box box, unsigned char* to, const float (&value)[EACH], int layer, long long t) {
    Quad q[EACH];
    numbers(value, q);
#pragma unroll
    for (int n = 0; n < EACH; ++n)
      if (int voice, channel; is_own(n, CHANNELS, voice, channel)) {
        void* there = to + place(first_told(channel), voice);
        if (!GATHERS)
          tell(here, box, there, q[n], VECTOR);
        else if (channel % VECTOR == 0)
          *(Quad*)there = q[n];
      }
    if (TAPS == 1 || box != INPUTS) return;
#pragma unroll
    for (int n = 0; n < EACH; ++n)
      if (int voice, channel; is_own(n, CHANNELS, voice, channel) && channel % VECTOR == 0)
        write_through((Quad*)here.past(layer, t, voice, first_told(channel)), q[n]);
  }
  __device__ __forceinline__ int first_told(int channel) const { return here.rank * CHANNELS + channel / VECTOR * VECTOR; }
  // All channels of the block, in one copy for each other block.
  __device__ __forceinline__ void tell_gathered(Box box, unsigned char* to) {
    if (!GATHERS) return;
    let_copies_see();
    meet(1, SINGERS);
    const int peer = threadIdx.x;
    if (WAITS && peer < SIZE && peer != here.rank) copy_out(to + place(here.rank * CHANNELS, 0), SLICE, here.box + box, peer);
  }
  __device__ __forceinline__ void tell_says(Box box, float* to, float value, int n) {
    int voice, say;
    const bool is_there = is_own(n, SAYS, voice, say);
    const Quad q = four_floats(value);
    if (is_there) tell(here, box, to + voice * SKIP + here.rank * SAYS + say / 4 * 4, q, 4);
  }

  // Layer 0, whose inputs are a few numbers, and what the start says to the output.
  __device__ void begin() {
    float z[EACH] = {};
#pragma unroll
    for (int n = 0; n < EACH; ++n)
      if (int voice, channel; is_own(n, CHANNELS, voice, channel)) {
        const Levels levels = here.levels(voice);
        x[n] = levels.input(here.own, channel);
        z[n] = levels.output(here.own, here.told.gates(0, voice), channel);
      }
    tell_channels(OUTPUTS, here.outputs, z, 0, 0);
    tell_gathered(OUTPUTS, here.outputs);
#pragma unroll
    for (int n = 0; n < EACH_SAY; ++n)
      if (int voice, say; is_own(n, SAYS, voice, say)) said[n] = here.levels(voice).said(here.own, say);
  }

  // A layer's outputs, from everybody's inputs.
  __device__ __forceinline__ void open_gates(int layer, long long t) {
    Some<2> past[EACH], frame[EACH];
#pragma unroll
    for (int n = 0; n < EACH; ++n)  // on their way while the others are waited for
      if (int voice, channel; is_own(n, CHANNELS, voice, channel)) {
        past[n] = TAPS > 1 ? *(const Some<2>*)(here.ahead_of(layer, t, voice) + 2 * channel) : Some<2>{};
        frame[n] = *(const Some<2>*)(here.told.gates(layer, voice) + 2 * channel);
      }
    Matrix<GATE_TILES> matrix(here, tape, ears.patience);
    ears.hear(here, INPUTS, BOX_BYTES);
    matrix.times(here.inputs);
    meet(1, SINGERS);
    float z[EACH] = {};
#pragma unroll
    for (int n = 0; n < EACH; ++n)
      if (int voice, channel; is_own(n, CHANNELS, voice, channel)) {
        const Some<2> sums = here.sums<2>(layer, 0, 2 * channel, voice);
        z[n] = gate(sums.at[0] + (past[n].at[0] + frame[n].at[0]), sums.at[1] + (past[n].at[1] + frame[n].at[1]));
      }
    tell_channels(OUTPUTS, here.outputs, z, layer, t);
    tell_gathered(OUTPUTS, here.outputs);
  }

  // From everybody's outputs the next layer's inputs, and what this one says to the output.
  __device__ __forceinline__ void spread(int layer, long long t) {
    Matrix<SPREAD_TILES> matrix(here, tape, ears.patience);
    ears.hear(here, OUTPUTS, BOX_BYTES);
    matrix.times(here.outputs);
    meet(1, SINGERS);
    const bool is_last = layer + 1 == LAYERS;
    // These first: once all have told their channels, some go on, and write where sums were.
#pragma unroll
    for (int n = 0; n < EACH_SAY; ++n)
      if (int voice, say; is_own(n, SAYS, voice, say)) said[n] += here.sums<1>(layer, GATES, CHANNELS + say, voice).at[0];
    if (SAYS > CHANNELS) meet(1, SINGERS);  // there may be singers who have no channel to tell
    if (!is_last) {
#pragma unroll
      for (int n = 0; n < EACH; ++n)
        if (int voice, channel; is_own(n, CHANNELS, voice, channel))
          x[n] += here.sums<1>(layer, GATES, channel, voice).at[0] + here.own[OWN_RESIDUAL_BIAS + layer * CHANNELS + channel];
      tell_channels(INPUTS, here.inputs, x, layer + 1, t);
      tell_gathered(INPUTS, here.inputs);
    }
#pragma unroll
    for (int n = 0; n < EACH_SAY; ++n)
      if (is_last) tell_says(SAID, here.said, fmaxf(said[n], 0.f), n);
  }

  // The block's rows of a layer of the output, four at a time; `finish` adds what is not a product and says who is told.
  template <int OWNED, typename Finish>
  __device__ __forceinline__ void conclude(const float4* weights, Box box, const float* x, Finish finish) {
    constexpr int FOURS = OWNED / 4;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    SmallRow<SKIP> rows[4];
    int held = -1;
    auto fetch = [&](int four) {
      if (four != held)
        for (int n = 0; n < 4; ++n) rows[n].fetch(weights, four * 4 + n);
      held = four;
    };
    if (warp < FOURS * VOICES) fetch(warp % FOURS);
    ears.hear(here, box, SKIP * VOICES * 4);
    for (int item = warp; item < FOURS * VOICES; item += WARPS) {
      const int four = item % FOURS, voice = item / FOURS;
      fetch(four);
      Quad q;
#pragma unroll
      for (int n = 0; n < 4; ++n) q.at[n] = bits(finish(rows[n].times(x + voice * SKIP), voice, four * 4 + n));
      if (WAITS && box == SAID && lane < SIZE)
        send(here.hidden + voice * SKIP + here.rank * SAYS + four * 4, q, here.box + HIDDEN, lane);
      else if (WAITS && box == HIDDEN && lane == 0)
        send(here.scored + voice / SIZE * CODES + here.rank * SCORES + four * 4, q, here.box + SCORED, voice % SIZE);
    }
  }

  // From what was said to the codes: every block draws those of some voices, or takes those that are forced.
  __device__ void decide(long long sample) {
    const Call& call = here.call;
    conclude<SAYS>(call.out + here.rank * (SAYS * SKIP / 4), SAID, here.said,
                   [&](float sum, int voice, int row) { return fmaxf(sum + here.told.out(voice)[row], 0.f); });
    conclude<SCORES>(call.scores + here.rank * (SCORES * SKIP / 4), HIDDEN, here.hidden,
                     [&](float sum, int, int row) { return sum + here.own[OWN_SCORES_BIAS + row]; });
    const int lane = threadIdx.x % 32;
    int own = threadIdx.x / 32;
    auto row_of = [=](int own) { return (long long)here.choir * VOICES + own * SIZE + here.rank; };
    auto die_of = [=](int own) {
      const bool is_thrown = own < here.voices_drawn() && !call.forced;
      return is_thrown ? call.uniform[row_of(own) * call.frames * HOP + sample] : 0;
    };
    double die = die_of(own);  // on its way while scores are waited for
    ears.hear(here, SCORED, here.voices_drawn() * CODES * 4);
    for (; own < here.voices_drawn(); own += WARPS, die = die_of(own)) {
      const int voice = own * SIZE + here.rank;
      const long long row = row_of(own), at = row * call.frames * HOP + sample;
      const float* scored = here.scored + own * CODES;
      if (call.forced)
        for (int n = lane; n < CODES; n += 32) call.logits[(sample * (gridDim.x / SIZE) * VOICES + row) * CODES + n] = scored[n];
      const int code = call.forced ? (int)call.code[at]
                                   : draw(scored, die, call.temperature, call.top_p, here.odds + own * CODES);
      if (WAITS && lane < SIZE) send(here.code + voice, (unsigned)code, here.box + CODE, lane);
      if (!call.forced && lane == 0) call.code[at] = code;
    }
    cluster_arrive();  // late: it takes until the GPU has all that was written
    ears.hear(here, CODE, VOICES * 4);
    for (int voice = threadIdx.x; voice < VOICES; voice += SINGERS) here.levels(voice).hear(here.code[voice]);
  }

  __device__ void sing() {
    const Call& call = here.call;
    for (long long sample = 0; sample < call.frames * HOP; ++sample) {
      if (sample) cluster_wait();  // inputs of the samples before are where the past is read
      if (sample % HOP == 0) {
        const long long row = sample / HOP * (gridDim.x / SIZE) + here.choir;
        here.told.hear(call.told + here.rank * TOLD, call.embedding + row * VOICES * DIMS, SINGERS);
        meet(1, SINGERS);
      }
      const long long t = call.clock + sample;
      for (int layer = 1; layer < LAYERS; ++layer)
        if (is_due(layer, t) && MULTIPLIES) recall(here, layer, t, tape, ears.patience);
      meet(1, SINGERS);  // before anybody writes where the past was read
      begin();
      spread(0, t);
      for (int layer = 1; layer < LAYERS; ++layer) {
        open_gates(layer, t);
        spread(layer, t);
      }
      bring_past_near(here, t + 1);
      decide(sample);
      if (meet_and_vote(1, SINGERS, !ears.patience.is_left)) break;
    }
    cluster_wait();
    if (here.rank == 0)
      for (int n = threadIdx.x; n < VOICES * (LAGS + 1); n += SINGERS)
        call.memory[here.choir * VOICES * (LAGS + 1) + n] = here.level[n];
  }
};

extern "C" __global__ void __cluster_dims__(SIZE, 1, 1) __launch_bounds__(THREADS, 1) speak(const Call call) {
  SHARED_MEMORY(shared);
  const Here here(call, shared);
  for (int n = threadIdx.x; n < OWN; n += THREADS) here.own[n] = call.own[here.rank * OWN + n];
  for (int n = threadIdx.x; n < VOICES * (LAGS + 1); n += THREADS)
    here.level[n] = call.memory[here.choir * VOICES * (LAGS + 1) + n];
  if (threadIdx.x == 0) {
    for (int n = 0; n < BOXES; ++n) begin(here.box + n, 1);
    for (int n = 0; n < PIECES; ++n) begin(here.full + n, 1), begin(here.empty + n, WARPS);
    publish_barriers();
  }
  __syncthreads();
  cluster_arrive();
  cluster_wait();
  if (threadIdx.x < SINGERS) {
    if (GIVES) take_registers<232>();
    Singer(here).sing();
  } else {
    if (GIVES) keep_registers<40>();
    feed(here);
  }
  cluster_arrive();  // nobody leaves whom another may still tell something
  cluster_wait();
}
