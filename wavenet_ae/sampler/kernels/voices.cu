// The decoder, a sample of every voice at a time, on blocks that stay: a block owns some channels of every layer, keeps
// their weights, and tells the others what they need. Sizes, and where things lie, are constants made by
// `cuda/layout.py`; a name that begins with MAIL_, OWN_, TOLD_ or SHARED_ is an offset into the memory of that name.
//
// Every layer costs one exchange. Its gates are made of the inputs and outputs of the layer before, without waiting for the
// sum of the two: C (x + R z) = C x + (C R) z. The first warps of a block (the hearers) each hear some channels of
// all blocks and multiply them by the block's rows; the next (the adder) adds up, opens the gates and tells. The other
// warps (the rememberers) go behind, and compute what inputs will add to the gates of samples to come. From the word that
// comes last to the word that is told, nothing is done that can be done before or after.
#include "words.cuh"
#include "tables.cuh"

constexpr int ROWS = GATES + CHANNELS + SAYS;
constexpr int SPEAKERS = HEARERS + 32;             // threads of the hearers and the adder
constexpr int PLACES = round_up_to_power(VOICES);  // columns of the voices
constexpr int PARTS = round_up_to_power(HEARING);  // room for what each hearer adds to a sum
constexpr int GROUPS = WIDTH / GROUP, OWN_GROUPS = divide_up(GROUPS, HEARING);  // of all, of a hearer
constexpr int ITEMS = OWN_GROUPS * PLACES;         // columns that a hearer multiplies: a group of one voice each
constexpr int SETS = divide_up(ITEMS, 8);          // of eight columns
constexpr bool IS_EVEN = ITEMS % 8 == 0 && VOICES == PLACES && OWN_GROUPS * HEARING == GROUPS;  // no column is empty
constexpr int TILES = divide_up(ROWS, 16), HALVES = divide_up(ROWS, 8), GATE_HALVES = divide_up(GATES, 8);
constexpr int ROW_QUADS = divide_up(OWN_GROUPS, A_QUAD);           // a lane's, of a row of a hearer
constexpr int STEP_QUADS = (HALVES + GATE_HALVES) * ROW_QUADS;     // a lane's, of a layer
constexpr int PAST_HALVES = (TAPS - 1) * GATE_HALVES, PAST_QUADS = divide_up(GROUPS, A_QUAD);
constexpr int PAST_SLAB = PAST_HALVES * PAST_QUADS * 32;           // quads of a layer's past taps
static_assert(SLAB == STEP_QUADS * HEARERS, "what a block needs of a layer, as it was laid out");
constexpr bool AT_ONCE = STEP_QUADS <= 32;         // a layer's weights fit a thread's registers
constexpr int PAIRED_ROW = divide_up(OWN_GROUPS, 2), PAIRED_QUADS = (HALVES + GATE_HALVES) * PAIRED_ROW;
constexpr bool WIDENS = BYTES == 1 && PAIRED_QUADS <= 16;  // to 16 bits, in registers
constexpr int EACH = divide_up(CHANNELS * VOICES, 32), EACH_SAY = divide_up(SAYS * VOICES, 32);  // of a lane that adds up
constexpr int PLANE = GROUPS * PLACES * GROUP;     // words of a layer's inputs, or outputs, of all voices
constexpr int BOX = PLANES * PLANE;

struct Call {
  const Quad *now, *past;                   // weights, each [block]: see `Packed` in cuda/packing.py
  const float4 *out, *scores;               // [block]
  const float *own, *told;                  // [block]: what is used every sample, what is used every frame
  unsigned* mail;
  float *ahead, *memory;                    // [block]: sums of past taps for samples to come; [voice][LAGS levels, age]
  unsigned* lost;                           // not 0: a block waited in vain
  const float* embedding;                   // [frame][voice][DIMS]
  const double* uniform;                    // [voice][sample]
  long long* code;                          // [voice][sample]: written, or read if forced
  float* logits;                            // [sample][voice][code], written if forced
  long long clock, frames, forced;
  double temperature, top_p;
};

__device__ constexpr int slots(int layer) { return (TAPS - 1) * dilation(layer); }
__device__ constexpr int slot(long long t, int layer) {  // of a ring of `slots`
  return (int)((TAPS - 1 & TAPS - 2) == 0 ? t & slots(layer) - 1 : t % slots(layer));
}
__device__ constexpr int ahead_of(int layer) {  // where the ring of a layer after the first begins
  int rings = (layer / STAGES * ((1 << STAGES) - 1) + (1 << layer % STAGES) - 1) - 1;
  return (TAPS - 1) * rings;
}
__device__ constexpr int until_due(long long t, int layer) { return (int)(t + 1 + layer & window(layer) - 1); }
// The layers whose weights stay in shared memory, and those of the others that are to stay in the second-level cache.
__device__ constexpr bool is_among(int n, int some, int all) { return (n + 1) * some / all != n * some / all; }
__device__ constexpr bool is_resident(int step) { return is_among(step, RESIDENT, LAYERS); }
__device__ constexpr bool is_kept(int step) {
  return RESIDENT < LAYERS && is_among(step - step * RESIDENT / LAYERS, KEPT, LAYERS - RESIDENT);
}

__device__ __forceinline__ unsigned turn_of(long long t) { return (unsigned)(t + 1) & 1; }
__device__ __forceinline__ unsigned turn_in_ring(long long t) { return (unsigned)t / RING + 1 & 1; }

// What a block has at hand.
struct Here {
  const Call& call;
  const int first, first_say, first_score;  // its channels, its rows of the skip, its codes
  float *parts, *level, *own, *heard, *hidden, *logits;
  const Conditions told;
  double* odds;
  int *done, *heard_of;
  const Quad *resident, *now, *past;
  float* ahead;

  __device__ Here(const Call& call, unsigned char* shared)
      : call(call), first(blockIdx.x * CHANNELS), first_say(blockIdx.x * SAYS), first_score(blockIdx.x * SCORES),
        parts((float*)(shared + SHARED_PARTS)), level((float*)(shared + SHARED_LEVEL)),
        own((float*)(shared + SHARED_OWN)), heard((float*)(shared + SHARED_HEARD)),
        hidden((float*)(shared + SHARED_HIDDEN)), logits((float*)(shared + SHARED_LOGITS)),
        told{(float*)(shared + SHARED_TOLD)}, odds((double*)(shared + SHARED_ODDS)),
        done((int*)(shared + SHARED_DONE)), heard_of((int*)(shared + SHARED_HEARD_OF)),
        resident((const Quad*)(shared + SHARED_RESIDENT)), now(call.now + blockIdx.x * (long long)(LAYERS * SLAB)),
        past(call.past + blockIdx.x * (long long)PAST_SLAB * (LAYERS - 1)),
        ahead(call.ahead + blockIdx.x * (long long)(AHEAD * VOICES * GATES)) {}

  // Sums of a row's products, by every hearer. The next step's have their own place while these are still read.
  __device__ __forceinline__ float* part(int step, int row, int voice) const {
    return parts + (step % 2 * TILES * 16 + row) * PART_ROW + voice * PARTS;
  }
  __device__ __forceinline__ float sum(int step, int row, int voice) const {
    Some<PARTS> of = *(const Some<PARTS>*)part(step, row, voice);
#pragma unroll
    for (int warp = HEARING; warp < PARTS; ++warp) of.at[warp] = 0;
#pragma unroll
    for (int half = PARTS / 2; half; half /= 2)
      for (int warp = 0; warp < half; ++warp) of.at[warp] += of.at[warp + half];
    return BYTES == 1 ? of.at[0] * own[OWN_SCALE + (step - 1) * ROWS + row] : of.at[0];
  }
  __device__ __forceinline__ Levels levels(int voice) const { return Levels(level, voice); }
  __device__ __forceinline__ unsigned* box(int layer, long long t) const {
    return call.mail + MAIL_CHANNELS + (layer * RING + (int)((unsigned)t % RING)) * BOX;
  }
};

// A word's place in a box, of a channel.
__device__ __forceinline__ int place(int channel, int voice) {
  return (channel / GROUP * PLACES + voice) * GROUP + channel % GROUP;
}

// A layer's weights of a hearer: a quad a lane holds four weights of a row, of one group or more.
struct Weights {
  Quad held[AT_ONCE ? STEP_QUADS : 1];
  Quad paired[WIDENS ? PAIRED_QUADS : 1];
  const Quad* from;

  // Start to load them; nothing waits until they are used.
  __device__ __forceinline__ void fetch(const Here& here, int step) {
    from = (is_resident(step - 1) ? here.resident + (step - 1) * RESIDENT / LAYERS * SLAB : here.now + (step - 1) * SLAB) + threadIdx.x;
    const bool has_policy = KEPT && !is_resident(step - 1);
    if (AT_ONCE && MULTIPLIES && has_policy) {
      const Policy policy = policy_of(is_kept(step - 1));
#pragma unroll
      for (int n = 0; n < STEP_QUADS; ++n) held[n] = load_constant(from + n * HEARERS, policy);
    } else if (AT_ONCE && MULTIPLIES) {
#pragma unroll
      for (int n = 0; n < STEP_QUADS; ++n) held[n] = from[n * HEARERS];
    }
    const int later = (step + 1) % LAYERS;  // two steps from now: from the GPU's memory to its cache
    const Quad* near = here.now + later * SLAB + 8 * threadIdx.x;
    if (MULTIPLIES && !is_resident(later))
#pragma unroll 4
      for (int n = 0; n < divide_up(SLAB / 8, HEARERS); ++n, near += 8 * HEARERS)
        if (n * HEARERS + threadIdx.x < SLAB / 8) KEPT && is_kept(later) ? bring_near_to_stay(near) : bring_near(near);
  }
  __device__ __forceinline__ Quad quad(int half, int group) const {
    int n = half * ROW_QUADS + group / A_QUAD;
    return AT_ONCE ? held[n] : from[n * HEARERS];
  }
  __device__ __forceinline__ Row row(int half, int group) const { return Row(quad(half, group), group); }

  // Of 16-bit numbers a quad is just what a tensor core wants: two eights of rows of a group or, of an eight that has none
  // beside it, those of two groups. Those of 8 bits are made so before numbers are waited for.
  __device__ __forceinline__ Quad pair_of(int half, int group) const {
    return WIDENS ? paired[half * PAIRED_ROW + group / 2] : quad(half, group);
  }
  __device__ __forceinline__ void widen() {
    if (WIDENS && MULTIPLIES) widen_halves<0, HALVES>(), widen_halves<HALVES, GATE_HALVES>();
  }
  template <int BEGIN, int ALL> __device__ __forceinline__ void widen_halves() {
#pragma unroll
    for (int half = 0; half < ALL; ++half)
#pragma unroll
      for (int at = 0; at < PAIRED_ROW; ++at) {
        const bool is_whole = half / 2 * 2 + 1 < ALL;
        const int group = 2 * at + (is_whole ? half % 2 : 0), beside = is_whole ? group : group + 1;
        const Row upper = row(BEGIN + half / 2 * 2, group < OWN_GROUPS ? group : 0);
        const Row lower = row(BEGIN + half / 2 * 2 + is_whole, beside < OWN_GROUPS ? beside : 0);
        for (int word = 0; word < 2; ++word) {
          Quad& q = paired[(BEGIN + half) * PAIRED_ROW + at];
          q.at[2 * word] = opaque(upper.word[word]), q.at[2 * word + 1] = opaque(lower.word[word]);
        }
      }
  }
};

// A set has eight columns: those of SHARING groups, side by side. Every group's weights are multiplied by all of them, and
// each column keeps its own group's sums.
constexpr int SHARING = 8 / PLACES;
__device__ __forceinline__ bool is_column_of(int s, int n) { return (2 * ((int)threadIdx.x % 4) + n) / PLACES == s; }

// A tile of the rows of a matrix, ALL eights of them, times a set of columns.
template <int BEGIN, int ALL>
__device__ __forceinline__ Sums products_of_pairs(const Weights& weights, int tile, int first, const Row& inputs) {
  const bool is_whole = 2 * tile + 1 < ALL;
  Sums kept{};
#pragma unroll
  for (int s = 0; s < SHARING; ++s) {
    const int group = first * SHARING + s;
    if (group >= OWN_GROUPS) break;
    if (!is_whole && SHARING > 1 && s % 2) continue;
    const Quad q = weights.pair_of(BEGIN + 2 * tile + (is_whole ? group % 2 : 0), group);
    Sums sums{};
    multiply(sums, {q.at[0], q.at[2]}, {q.at[1], q.at[3]}, {inputs.word[0], inputs.word[1]});
#pragma unroll
    for (int n = 0; n < 2; ++n)
      if (is_column_of(s, n)) {
        kept.at[n] = sums.at[!is_whole && SHARING == 1 && group % 2 ? 2 + n : n];
        if (is_whole) kept.at[2 + n] = sums.at[2 + n];
      } else if (!is_whole && is_column_of(s + 1, n)) {
        kept.at[n] = sums.at[2 + n];
      }
  }
  return kept;
}

// The same of rows as they come, outputs and inputs in one go.
__device__ __forceinline__ Sums products_of_rows(const Weights& weights, int tile, int first, const Row& x, const Row& z) {
  const int upper = 2 * tile, lower = upper + 1;
  const Row none;
  Sums kept{};
#pragma unroll
  for (int s = 0; s < SHARING; ++s) {
    const int group = first * SHARING + s;
    if (group >= OWN_GROUPS) break;
    Sums of_x{}, sums{};
    if (upper < GATE_HALVES)
      add_product(of_x, weights.row(HALVES + upper, group), lower < GATE_HALVES ? weights.row(HALVES + lower, group) : none, x);
    if (BYTES == 4) sums = of_x;
    add_product(sums, weights.row(upper, group), lower < HALVES ? weights.row(lower, group) : none, z);
    if (BYTES < 4 && upper < GATE_HALVES) sums = sums + of_x;  // as where they are widened
#pragma unroll
    for (int n = 0; n < 2; ++n)
      if (is_column_of(s, n)) kept.at[n] = sums.at[n], kept.at[2 + n] = sums.at[2 + n];
  }
  return kept;
}

// The products of a tile of rows with the columns heard. `first` and `COUNT` sets of columns are added up as a tree, by
// groups, that is the same for any number of voices.
template <int COUNT>
__device__ __forceinline__ Sums products(const Weights& weights, const Quad (&heard)[PLANES * SETS], int tile, int first) {
  if constexpr (COUNT > 1) {
    if (first + COUNT / 2 >= SETS) return products<COUNT / 2>(weights, heard, tile, first);
    return products<COUNT / 2>(weights, heard, tile, first) + products<COUNT / 2>(weights, heard, tile, first + COUNT / 2);
  } else {
    Row x, z;
    part(heard + first * PLANES, x, z);
    Sums kept;
    if (BYTES != 2 && !WIDENS) {
      kept = products_of_rows(weights, tile, first, x, z);
    } else {
      kept = products_of_pairs<0, HALVES>(weights, tile, first, z);
      if (2 * tile < GATE_HALVES) kept = kept + products_of_pairs<HALVES, GATE_HALVES>(weights, tile, first, x);
    }
    if (PLACES == 1) kept.at[0] += kept.at[1], kept.at[2] += kept.at[3];
#pragma unroll
    for (int far = PLACES == 1 ? 1 : PLACES / 2; far < 4; far *= 2)
#pragma unroll
      for (int n = 0; n < 4; ++n) kept.at[n] += __shfl_xor_sync(~0u, kept.at[n], far);
    return kept;
  }
}

// A hearer's part of a step: its channels' numbers times the block's rows.
__device__ __forceinline__ void listen(const Here& here, Weights& weights, int step, long long t, Patience& patience) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, column = lane / 4, pair_of_columns = lane % 4;
  const unsigned* box = opaque(here.box(step - 1, t) + warp * ITEMS * GROUP + 4 * lane);
  const int shown = warp * OWN_GROUPS + column % OWN_GROUPS;
  Quad heard[PLANES * SETS];
  weights.widen();
  hear<IS_EVEN>(heard, [=](int n) {
    int item = n / PLANES * 8 + column, voice = item % PLACES, group = warp * OWN_GROUPS + item / PLACES;
    bool is_told = IS_EVEN || (item < ITEMS && voice < VOICES && group < GROUPS);
    return is_told ? box + n % PLANES * PLANE + n / PLANES * 4 * 32 : nullptr;
  }, here.box(step - 1, t) + (shown < GROUPS ? shown : 0) * PLACES * GROUP + 4 * pair_of_columns, turn_in_ring(t), patience);
  if (!MULTIPLIES) return;
#pragma unroll
  for (int tile = 0; tile < TILES; ++tile) {
    Sums sums = products<round_up_to_power(SETS)>(weights, heard, tile, 0);
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      int voice = PLACES == 1 ? 0 : 2 * pair_of_columns + n % 2, row = tile * 16 + column + n / 2 * 8;
      if (PLACES == 1 ? n % 2 || pair_of_columns : voice >= PLACES) continue;
      here.part(step, row, voice)[warp] = sums.at[n];
    }
  }
}

// What the adder knows of the block's own channels and rows, a few in each lane; lanes that have none compute what
// another does, and tell nothing.
struct Adder {
  const Here& here;
  float x[EACH], said[EACH_SAY];
  Some<2> ahead[EACH], told[EACH];  // of the next layer: what is added to its gates
  float bias[EACH];                 // and to its inputs
  Patience patience;                // with the rememberers

  __device__ __forceinline__ explicit Adder(const Here& here) : here(here), patience(here.call.lost) {}
  template <int OWNED> __device__ __forceinline__ static bool is_own(int n, int& voice, int& row) {
    const int at = n * 32 + threadIdx.x % 32, last = OWNED * VOICES - 1, there = at < last ? at : last;
    voice = there / OWNED, row = there % OWNED;
    return at <= last;
  }

  // Start to load what is added to a layer's gates.
  __device__ __forceinline__ void prepare(int layer, long long t) {
    if (TAPS > 1) await(here.done + layer, (int)(t - here.call.clock) - until_due(t - 1, layer), patience);
    const float* from = here.ahead + (TAPS > 1 ? ahead_of(layer) + slot(t, layer) : 0) * VOICES * GATES;
    constexpr int PREPARED = LAYERS > 1 ? LAYERS - 1 : 1;  // layers in a sample
    const int then = layer + 1, later = then % PREPARED + 1;  // two layers on, perhaps of the next sample
    const float* following = here.ahead + (TAPS > 1 ? ahead_of(later) + slot(t + then / PREPARED, later) : 0) * VOICES * GATES;
#pragma unroll
    for (int n = 0; n < EACH; ++n) {
      int voice, channel;
      is_own<CHANNELS>(n, voice, channel);
      ahead[n] = TAPS > 1 ? *(const Some<2>*)(from + voice * GATES + 2 * channel) : Some<2>{};
      told[n] = *(const Some<2>*)(here.told.gates(layer, voice) + 2 * channel);
      bias[n] = here.own[OWN_RESIDUAL_BIAS + (layer - 1) * CHANNELS + channel];
      if (TAPS > 1) bring_near(following + voice * GATES + 2 * channel);  // summed long ago, and far by now
    }
  }

  __device__ __forceinline__ void tell(bool tells, int layer, int voice, int channel, float x, float z, long long t) const {
    if (WIDTH % CHANNELS && here.first + channel >= WIDTH) tells = false;
    tell_channel(tells, here.box(layer, t) + place(here.first + channel, voice), PLANE, x, z, turn_in_ring(t));
  }

  // Layer 0, whose inputs are a few numbers, and what the start says to the output.
  __device__ __forceinline__ void begin(long long t) {
#pragma unroll
    for (int n = 0; n < EACH; ++n) {
      int voice, channel;
      const bool tells = is_own<CHANNELS>(n, voice, channel);
      const Levels levels = here.levels(voice);
      x[n] = levels.input(here.own, channel);
      const float z = levels.output(here.own, here.told.gates(0, voice), channel);
      tell(tells, 0, voice, channel, x[n], z, t);
    }
    if (LAYERS > 1) prepare(1, t);
#pragma unroll
    for (int n = 0; n < EACH_SAY; ++n) {
      int voice, say;
      is_own<SAYS>(n, voice, say);
      said[n] = here.levels(voice).said(here.own, say);
    }
  }

  // From the sums of a step: a layer's inputs and outputs, to everybody, and what the layer before says to the output.
  __device__ __forceinline__ void add(int layer, long long t) {
    const int step = layer;
    meet(2, SPEAKERS);
#pragma unroll
    for (int n = 0; n < EACH; ++n) {
      int voice, channel;
      const bool tells = is_own<CHANNELS>(n, voice, channel);
      const float opened = here.sum(step, 2 * channel, voice) + (ahead[n].at[0] + told[n].at[0]);
      const float value = here.sum(step, 2 * channel + 1, voice) + (ahead[n].at[1] + told[n].at[1]);
      x[n] += here.sum(step, GATES + channel, voice) + bias[n];
      tell(tells, layer, voice, channel, x[n], gate(opened, value), t);
    }
    if (layer + 1 < LAYERS) prepare(layer + 1, t);
    hear_said(step);
  }

  // From the sums of the last step what is said to the output, to everybody.
  __device__ __forceinline__ void end(long long t) {
    meet(2, SPEAKERS);
    hear_said(LAYERS);
#pragma unroll
    for (int n = 0; n < EACH_SAY; ++n) {
      int voice, say;
      if (is_own<SAYS>(n, voice, say) && here.first_say + say < SKIP)
        ::tell(here.call.mail + MAIL_SAID + voice * SKIP + here.first_say + say, fmaxf(said[n], 0.f), turn_of(t));
    }
  }
  __device__ __forceinline__ void hear_said(int step) {
#pragma unroll
    for (int n = 0; n < EACH_SAY; ++n) {
      int voice, say;
      is_own<SAYS>(n, voice, say);
      said[n] += here.sum(step, GATES + CHANNELS + say, voice);
    }
  }
};

// A layer of the output: its inputs come from a box, its block's rows go to another. `finish` adds what is not a product.
template <int OWNED, int ALL, typename Finish>
__device__ __forceinline__ void conclude(const float4* weights, SmallRow<SKIP>& rows, const unsigned* from, float* x, unsigned* to,
                                         int first, unsigned turn, Patience& patience, Finish finish) {
  hear_box<VOICES * SKIP>(from, x, turn, patience);
  meet(3, HEARERS);
  for (int row = threadIdx.x / 32; row < OWNED; row += HEARING) {
    if (row >= HEARING) rows.fetch(weights, row);
    float sums[VOICES];
#pragma unroll
    for (int voice = 0; voice < VOICES; ++voice) sums[voice] = rows.times(x + voice * SKIP);
    if (threadIdx.x % 32 == 0 && first + row < ALL)
#pragma unroll
      for (int voice = 0; voice < VOICES; ++voice) tell(to + voice * ALL + first + row, finish(sums[voice], voice, row), turn);
  }
  if (OWNED > HEARING) rows.fetch(weights, threadIdx.x / 32);  // the first again
}

// What a hearer keeps of a sample for the next: weights of the first layer, and a row of each layer of the output.
struct Kept {
  Weights weights;
  SmallRow<SKIP> out, scores;
  const float4 *all_out, *all_scores;

  __device__ __forceinline__ explicit Kept(const Here& here)
      : all_out(here.call.out + blockIdx.x * (SAYS * SKIP / 4)), all_scores(here.call.scores + blockIdx.x * (SCORES * SKIP / 4)) {
    weights.fetch(here, 1);
    const int row = threadIdx.x / 32;
    if (row < SAYS) out.fetch(all_out, row);
    if (row < SCORES) scores.fetch(all_scores, row);
  }
};

// From what was heard to the logits, which every block gets.
__device__ void hear_sample(const Here& here, Kept& kept, long long t, Patience& patience) {
  const Call& call = here.call;
#pragma unroll 2  // so that where the sums go is known
  for (int step = 1; step <= LAYERS; ++step) {
    listen(here, kept.weights, step, t, patience);
    if (TAPS > 1 && threadIdx.x == HEARERS - 1) hint(here.heard_of, (int)(t - call.clock) * LAYERS + step);
    meet(2, SPEAKERS);  // a hearer may write the next step's sums while these are read, but none after those
    kept.weights.fetch(here, step < LAYERS ? step + 1 : 1);
  }
  unsigned turn = turn_of(t);
  conclude<SAYS, SKIP>(kept.all_out, kept.out, call.mail + MAIL_SAID, here.heard, call.mail + MAIL_HIDDEN, here.first_say, turn,
                       patience, [&](float sum, int voice, int row) {
                         return fmaxf(sum + here.told.out(voice)[row], 0.f);
                       });
  conclude<SCORES, CODES>(kept.all_scores, kept.scores, call.mail + MAIL_HIDDEN, here.hidden, call.mail + MAIL_LOGITS,
                          here.first_score, turn, patience,
                          [&](float sum, int, int row) { return sum + here.own[OWN_SCORES_BIAS + row]; });
  hear_box<VOICES * CODES>(call.mail + MAIL_LOGITS, here.logits, turn, patience);
}

// Every block draws every voice's code, by the same die, or takes the one that is forced, and hears it.
__device__ void hear_code(const Here& here, long long sample) {
  const Call& call = here.call;
  if (call.forced && blockIdx.x == 0)
    for (int n = threadIdx.x; n < VOICES * CODES; n += HEARERS) call.logits[sample * (VOICES * CODES) + n] = here.logits[n];
  for (int voice = threadIdx.x / 32; voice < VOICES; voice += HEARING) {
    const long long at = voice * call.frames * HOP + sample;
    const int code = call.forced ? (int)call.code[at]
                                 : draw(here.logits + voice * CODES, call.uniform[at], call.temperature, call.top_p,
                                        here.odds + voice * CODES);
    if (threadIdx.x % 32 == 0) {
      here.levels(voice).hear(code);
      if (!call.forced && blockIdx.x == 0) call.code[at] = code;
    }
  }
}

// What hearers and adder begin a sample with: once a frame, what its embedding adds.
__device__ __forceinline__ void begin_sample(const Here& here, long long sample) {
  if (sample % HOP) return;
  here.told.hear(here.call.told + blockIdx.x * TOLD, here.call.embedding + sample / HOP * VOICES * DIMS, SPEAKERS);
  meet(1, SPEAKERS);
}

__device__ void hear_all(const Here& here) {
  const Call& call = here.call;
  Patience patience(call.lost);
  Kept kept(here);
  for (long long sample = 0; sample < call.frames * HOP; ++sample) {
    begin_sample(here, sample);
    hear_sample(here, kept, call.clock + sample, patience);
    if (meet_and_vote(1, SPEAKERS, !patience.is_left)) break;
    hear_code(here, sample);
    meet(1, SPEAKERS);
  }
  if (TAPS > 1 && threadIdx.x == HEARERS - 1) hint(here.heard_of, 0x7fffffff);
  if (blockIdx.x == 0)
    for (int n = threadIdx.x; n < VOICES * (LAGS + 1); n += HEARERS) call.memory[n] = here.level[n];
}

__device__ void add_all(const Here& here) {
  const Call& call = here.call;
  Adder adder(here);
  for (long long sample = 0; sample < call.frames * HOP; ++sample) {
    const long long t = call.clock + sample;
    begin_sample(here, sample);
    adder.begin(t);
#pragma unroll 2
    for (int layer = 1; layer < LAYERS; ++layer) adder.add(layer, t);
    adder.end(t);
    if (meet_and_vote(1, SPEAKERS, !adder.patience.is_left)) break;
    meet(1, SPEAKERS);  // the codes are heard
  }
}

// What was told, or is about to be.
__device__ __forceinline__ Quad recall(const unsigned* place, unsigned turn, Patience& patience) {
  Quad told = load_relaxed(place);
  for (patience.tries = 0; WAITS && !is_of(told, turn) && patience.goes_on(); told = load_relaxed(place)) {
    LOOK_FOR(place);
    pause(100);
  }
  return told;
}

// What a layer's last inputs will add to the gates of samples to come, by one warp. Weights are read once for the window.
__device__ void remember(const Here& here, int layer, long long t, Patience& patience) {
  constexpr int PAST_TILES = divide_up(PAST_HALVES, 2), COLUMNS = divide_up(WINDOW * PLACES, 8);
  const int span = window(layer), gap = dilation(layer), lane = threadIdx.x % 32, column = lane / 4, t_lane = lane % 4;
  const long long begin = t + 1 - span;
  const Quad* rows = here.past + (layer - 1) * (long long)PAST_SLAB + lane;
  Sums sums[PAST_TILES > 0 ? PAST_TILES : 1][COLUMNS][2] = {};
  const Policy policy = KEPT ? policy_of(false) : Policy{};  // weights that are not seen again for some samples
#pragma unroll 2
  for (int even = 0; even < GROUPS; even += 2)
#pragma unroll
  for (int odd = 0; odd < 2; ++odd) {
    const int group = even + odd;
    if (group >= GROUPS) break;
    Row x[COLUMNS], none;
    Quad held[PAST_HALVES > 0 ? PAST_HALVES : 1];  // on their way while numbers are waited for
#pragma unroll
    for (int half = 0; half < PAST_HALVES; ++half) {
      const Quad* from = rows + (half * PAST_QUADS + group / A_QUAD) * 32;
      held[half] = KEPT ? load_constant(from, policy) : *from;
    }
#pragma unroll
    for (int n = 0; n < COLUMNS; ++n) {
      int item = n * 8 + column, s = item / PLACES, voice = item % PLACES;
      Quad told[PLANES] = {};
      if (s < span && voice < VOICES && begin + s >= 0)
        told[0] = recall(here.box(layer, begin + s) + (group * PLACES + voice) * GROUP + 4 * t_lane, turn_in_ring(begin + s), patience);
      Row z;
      part(told, x[n], z);
    }
#pragma unroll
    for (int tile = 0; tile < PAST_TILES; ++tile) {
      Row upper(held[2 * tile], group);
      Row lower = 2 * tile + 1 < PAST_HALVES ? Row(held[2 * tile + 1], group) : none;
#pragma unroll
      for (int n = 0; n < COLUMNS; ++n) add_product(sums[tile][n][odd], upper, lower, x[n]);
    }
  }
#pragma unroll
  for (int tile = 0; tile < PAST_TILES; ++tile)
#pragma unroll
    for (int n = 0; n < COLUMNS; ++n)
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        int item = n * 8 + 2 * t_lane + k % 2, s = item / PLACES, voice = item % PLACES;
        int half = 2 * tile + k / 2, tap = half / GATE_HALVES, row = half % GATE_HALVES * 8 + column;
        if (s >= span || voice >= VOICES || tap >= TAPS - 1 || row >= GATES) continue;
        float sum = sums[tile][n][0].at[k] + sums[tile][n][1].at[k];
        if (BYTES == 1) sum *= here.own[OWN_PAST_SCALE + ((layer - 1) * (TAPS - 1) + tap) * GATES + row];
        float* to = here.ahead + ((ahead_of(layer) + slot(begin + s + (tap + 1) * gap, layer)) * VOICES + voice) * GATES + row;
        *to = tap == TAPS - 2 ? sum : *to + sum;  // the oldest tap comes first: its slot is free
      }
}

// The windows that are full, in turn, each by one of the rememberers. One that waited in vain leaves.
__device__ void remember_all(const Here& here) {
  const Call& call = here.call;
  Patience patience(call.lost);
  int turn = ((int)threadIdx.x - SPEAKERS) / 32;
  for (long long sample = 0; sample < call.frames * HOP; ++sample)
    for (int layer = 1; layer < LAYERS; ++layer) {
      const long long t = call.clock + sample;
      if (until_due(t, layer)) continue;
      bool is_mine = turn == 0;
      turn = turn ? turn - 1 : REMEMBERING - 1;
      if (!is_mine) continue;
      if (threadIdx.x % 32 == 0) await_hint(here.heard_of, (int)sample * LAYERS + layer + 1, patience);  // lest it crowd the mail
      if (__any_sync(~0u, !patience.is_left)) return;
      remember(here, layer, t, patience);
      __syncwarp();
      if (threadIdx.x % 32 == 0) announce(here.done + layer, (int)sample + 1);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) speak(const Call call) {
  SHARED_MEMORY(shared);
  const Here here(call, shared);
  for (int step = 0; step < LAYERS; ++step)
    if (is_resident(step))
      for (int n = threadIdx.x; n < SLAB; n += THREADS)
        ((Quad*)here.resident)[step * RESIDENT / LAYERS * SLAB + n] = here.now[step * SLAB + n];
  for (int n = threadIdx.x; n < OWN; n += THREADS) here.own[n] = call.own[blockIdx.x * OWN + n];
  for (int n = threadIdx.x; n < VOICES * (LAGS + 1); n += THREADS) here.level[n] = call.memory[n];
  for (int n = threadIdx.x; n < 2 * TILES * 16 * PART_ROW; n += THREADS) here.parts[n] = 0;
  for (int n = threadIdx.x; n < LAYERS; n += THREADS) here.done[n] = 0;
  if (threadIdx.x == 0) *here.heard_of = 0;
  __syncthreads();
  if (threadIdx.x < HEARERS)
    hear_all(here);
  else if (threadIdx.x < SPEAKERS)
    add_all(here);
  else if (TAPS > 1)
    remember_all(here);
}
