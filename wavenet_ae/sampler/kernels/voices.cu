// The decoder, a sample of every voice at a time, on blocks that stay: a block owns some channels of every layer, keeps
// their weights and their past, and tells the others what they need. Sizes, and where things lie, are constants made by
// `cuda/layout.py`; a name that begins with MAIL_, OWN_, TOLD_ or SHARED_ is an offset into the memory of that name.
#include "grid.cuh"
#include "product.cuh"
#include "draw.cuh"

constexpr int WARPS = THREADS / 32, ROWS = 3 * CHANNELS + SAYS, LAGS = 2 * TAPS - 1, BOX = VOICES * WIDTH;

struct Call {
  const Vector *now, *folded, *past, *out, *scores;  // weights, each [block]: see `Packed` in cuda/layout.py
  const float *own, *told;                  // [block]: what is used every sample, what is used every frame
  Mail* mail;
  float *ahead, *memory;                    // [block]: sums of past taps for samples to come; [voice][LAGS levels, age]
  unsigned* lost;                           // not 0: a block waited in vain
  const float* embedding;                   // [frame][voice][DIMS]
  const double* uniform;                    // [voice][sample]
  long long* code;                          // [voice][sample]: written, or read if forced
  float* logits;                            // [sample][voice][code], written if forced
  long long clock, frames, forced;
  double temperature, top_p;
};

__device__ constexpr int dilation(int layer) { return 1 << layer % STAGES; }
__device__ constexpr int window(int layer) {  // inputs whose part in the future is computed together
  return dilation(layer) < WINDOW ? dilation(layer) : WINDOW;
}
__device__ constexpr int slots(int layer) { return (TAPS - 1) * dilation(layer); }
__device__ constexpr int slot(long long t, int layer) {  // of a ring of `slots`
  return (int)((TAPS - 1 & TAPS - 2) == 0 ? t & slots(layer) - 1 : t % slots(layer));
}

// A folded layer's gates are made of the inputs and outputs of the layer before, without waiting for the sum of the two:
// C (x + R z) = C x + (C R) z. Its own inputs and outputs are told at once, so it costs one exchange and not two.
__device__ constexpr bool is_folded(int layer) { return layer >= 2 && layer < 2 + FOLDED; }

// What a block has at hand.
struct Here {
  int first, first_say, first_score;  // its channels, its rows of the skip, its codes
  float *window, *said, *told, *level, *own;
  unsigned char* shared;
  const Vector *resident, *now, *folded, *past, *out, *scores;
  float* ahead;

  __device__ Here(const Call& call, unsigned char* shared)
      : first(blockIdx.x * CHANNELS), first_say(blockIdx.x * SAYS), first_score(blockIdx.x * SCORES),
        window((float*)(shared + SHARED_WINDOW)), said((float*)(shared + SHARED_SAID)),
        told((float*)(shared + SHARED_TOLD)), level((float*)(shared + SHARED_LEVEL)),
        own((float*)(shared + SHARED_OWN)), shared(shared), resident((const Vector*)(shared + SHARED_RESIDENT)),
        now(call.now + blockIdx.x * (long long)(LAYERS * SLAB)),
        folded(call.folded + blockIdx.x * (long long)(FOLDED * GATES_SLAB)),
        past(call.past + blockIdx.x * (long long)((LAYERS - 1) * (TAPS - 1) * GATES_SLAB)),
        out(call.out + blockIdx.x * (SAYS * SKIP / 4)), scores(call.scores + blockIdx.x * (SCORES * SKIP / 4)),
        ahead(call.ahead + blockIdx.x * (long long)(AHEAD * VOICES * 2 * CHANNELS)) {}

  // A layer's inputs and outputs, of all blocks. The next layer's have their own place while these are still read.
  __device__ float* x(int layer) const { return (float*)(shared + SHARED_X) + layer % BUFFERS * 2 * BOX; }
  __device__ float* z(int layer) const { return x(layer) + BOX; }
  __device__ const Vector* slab(int layer) const { return (layer < RESIDENT ? resident : now) + layer * SLAB; }
  __device__ float scale(int layer, int row) const { return own[OWN_SCALE + layer * ROWS + row]; }
  __device__ float* told_gates(int layer, int voice) const { return told + (layer * VOICES + voice) * 2 * CHANNELS; }
  __device__ float* told_out(int voice) const { return told + (LAYERS * 2 * CHANNELS * VOICES + voice * SAYS); }
  // The output's part of the sample uses the room of the windows.
  __device__ float* heard() const { return window; }
  __device__ float* hidden() const { return window + VOICES * SKIP; }
  __device__ float* logits() const { return window + 2 * VOICES * SKIP; }
  __device__ double* odds(int voice) const { return (double*)(window + VOICES * (2 * SKIP + CODES)) + voice * CODES; }
};

__device__ Mail* mail_z(const Call& call, int layer) { return call.mail + MAIL_Z + layer * BOX; }
__device__ Mail* mail_x(const Call& call, int layer, long long t) {  // the last WINDOW inputs of a layer are kept
  return call.mail + MAIL_X + ((layer - 1) * WINDOW + (int)(t % WINDOW)) * BOX;
}

// A sum over the last few levels heard, each with a row of `table`.
__device__ float of_levels(const Here& here, const float* table, int rows, int row, int lags, int voice) {
  float sum = 0;
  for (int lag = 0; lag < lags; ++lag) sum += table[lag * rows + row] * here.level[voice * (LAGS + 1) + lag];
  return sum;
}

// Once a frame: what the embedding adds to the block's own rows.
__device__ void be_told(const Here& here, const Call& call, long long frame) {
  constexpr int GATES = LAYERS * 2 * CHANNELS;
  const float* table = call.told + blockIdx.x * TOLD;
  for (int n = threadIdx.x; n < VOICES * (GATES + SAYS); n += THREADS) {
    int voice = n / (GATES + SAYS), row = n % (GATES + SAYS);
    float sum = table[TOLD_BIAS + row];
    for (int dim = 0; dim < DIMS; ++dim)
      sum += table[TOLD_WEIGHT + dim * (GATES + SAYS) + row] * call.embedding[(frame * VOICES + voice) * DIMS + dim];
    if (row < GATES)
      here.told_gates(row / (2 * CHANNELS), voice)[row % (2 * CHANNELS)] = sum;
    else
      here.told_out(voice)[row - GATES] = sum;
  }
  __syncthreads();
}

// Layer 0, whose inputs are a few numbers, and what the start says to the output.
__device__ void open_first(const Here& here, const Call& call, unsigned stamp) {
  for (int n = threadIdx.x; n < VOICES * CHANNELS; n += THREADS) {
    int voice = n / CHANNELS, channel = n % CHANNELS;
    if (here.first + channel >= WIDTH) continue;
    float age = here.level[voice * (LAGS + 1) + LAGS], sum[2];
    for (int half = 0; half < 2; ++half) {
      int row = 2 * channel + half, bias = OWN_FIRST_BIAS + (int)fminf(age, TAPS - 1) * 2 * CHANNELS;
      sum[half] = here.told_gates(0, voice)[row] + here.own[bias + row] +
                  of_levels(here, here.own + OWN_FIRST, 2 * CHANNELS, row, LAGS, voice);
    }
    post(mail_z(call, 0) + voice * WIDTH + here.first + channel, gate(sum[0], sum[1]), stamp);
  }
  for (int n = threadIdx.x; n < VOICES * SAYS; n += THREADS)
    here.said[n] = here.own[OWN_SAID_BIAS + n % SAYS] +
                   of_levels(here, here.own + OWN_SAID, SAYS, n % SAYS, TAPS, n / SAYS);
}

// Both rows of a channel's gates, and what was summed for them ahead of time.
struct Gates {
  Rows<2, WIDTH, BYTES> current, folded;
  float ahead[2];

  __device__ __forceinline__ void fetch(const Here& here, int layer, int channel, const float* ahead_now) {
    current.fetch(here.slab(layer), 2 * channel);
    if (is_folded(layer)) folded.fetch(here.folded + (layer - 2) * GATES_SLAB, 2 * channel);
    int voice = voice_of_lane<2>(0);
    if (voice == VOICES) return;
    for (int half = 0; half < 2; ++half)
      ahead[half] = TAPS > 1 ? ahead_now[(voice * CHANNELS + channel) * 2 + half] : 0;
  }

  // The channel's output, to everybody.
  __device__ __forceinline__ void open(const Here& here, const Call& call, int layer, int channel, unsigned stamp) const {
    float sums[2 * PLACES] = {};
    current.add(is_folded(layer) ? here.x(layer - 1) : here.x(layer), sums);
    if (is_folded(layer)) folded.add(here.z(layer - 1), sums);
    float sum = over_lanes(sums), other = __shfl_xor_sync(~0u, sum, 16);  // the halves hold a row each
    int voice = voice_of_lane<2>(0);
    if (voice == VOICES || here.first + channel >= WIDTH) return;
    const float* told = here.told_gates(layer, voice) + 2 * channel;
    if (BYTES == 1) sum *= here.scale(layer, 2 * channel), other *= here.scale(layer, 2 * channel + 1);
    float opened = sum + (ahead[0] + told[0]), value = other + (ahead[1] + told[1]);
    post(mail_z(call, layer) + voice * WIDTH + here.first + channel, gate(opened, value), stamp);
  }
};

// This warp's channels; the weights of the first are there already.
__device__ __forceinline__ void open_all(
    const Here& here, const Call& call, int layer, Gates& gates, const float* ahead_now, unsigned stamp) {
  for (int first = threadIdx.x / 32, channel = first; channel < CHANNELS; channel += WARPS) {
    if (channel != first) gates.fetch(here, layer, channel, ahead_now);
    gates.open(here, call, layer, channel, stamp);
  }
}

// While others compute their gates: what the layer's last inputs will add to the gates of samples to come. Weights are
// read once for the whole window.
__device__ bool look_back(const Here& here, const Call& call, int layer, float* ahead, long long t) {
  const int span = window(layer), gap = dilation(layer);
  const long long begin = t + 1 - span;
  bool all = take<WINDOW * BOX>(
      [&](int n) { return mail_x(call, layer, begin + n / BOX) + n % BOX; },
      [&](int n) { return (unsigned)(begin + n / BOX) + 1; }, span * BOX, here.window, call.lost);
  if (__syncthreads_or(!all)) return false;
  for (int item = threadIdx.x / 32; item < (TAPS - 1) * CHANNELS; item += WARPS) {
    int tap = item / CHANNELS + 1, channel = item % CHANNELS, matrix = (layer - 1) * (TAPS - 1) + tap - 1;
    Rows<2, WIDTH, BYTES> rows;
    rows.fetch(here.past + matrix * GATES_SLAB, 2 * channel);
    for (int s = 0; s < span; ++s) {
      float sum = product(rows, here.window + s * BOX);
      for (int half = 0; half < 2; ++half) {
        int voice = voice_of_lane<2>(half);
        if (voice == VOICES) continue;
        if (BYTES == 1) sum *= here.own[OWN_PAST_SCALE + (matrix * CHANNELS + channel) * 2 + half];
        float* to = ahead + ((slot(begin + s + tap * gap, layer) * VOICES + voice) * CHANNELS + channel) * 2 + half;
        *to = tap == TAPS - 1 ? sum : *to + sum;  // the oldest tap comes first: its slot is free
      }
    }
  }
  return true;
}

// A row of the residual, and so of the next layer's input, or of what the layer says to the output.
__device__ __forceinline__ void carry_on(
    const Here& here, const Call& call, int layer, int row, const Rows<1, WIDTH, BYTES>& rows, long long t) {
  const unsigned stamp = (unsigned)t + 1;
  float sum = product(rows, here.z(layer));
  int voice = voice_of_lane<1>(0), channel = here.first + row, say = row - CHANNELS;
  if (voice == VOICES) return;
  if (BYTES == 1) sum *= here.scale(layer, 2 * CHANNELS + row);
  if (say >= 0) {
    float total = here.said[voice * SAYS + say] += sum;
    if (layer == LAYERS - 1 && here.first_say + say < SKIP)
      post(call.mail + MAIL_SAID + voice * SKIP + here.first_say + say, fmaxf(total, 0.f), stamp);
  } else if (layer < LAYERS - 1 && channel < WIDTH) {
    float before = layer ? here.x(layer)[voice * WIDTH + channel]
                         : of_levels(here, here.own + OWN_START, CHANNELS, row, TAPS, voice);
    post(mail_x(call, layer + 1, t) + voice * WIDTH + channel,
         before + (sum + here.own[OWN_RESIDUAL_BIAS + layer * CHANNELS + row]), stamp);
  }
}

// A layer of the output: its inputs come with `from`, its block's rows go to `to`. `finish` adds what is not a product.
template <int OWNED, int ALL, typename Finish>
__device__ bool conclude(
    const Call& call, const Vector* weights, const Mail* from, float* x, Mail* to, int first, unsigned stamp, Finish finish) {
  Rows<1, SKIP, 4> rows;
  int row = threadIdx.x / 32;
  if (row < OWNED) rows.fetch(weights, row);
  if (!collect<VOICES * SKIP>(from, x, stamp, call.lost)) return false;
  for (; row < OWNED; row += WARPS) {
    if (row >= WARPS) rows.fetch(weights, row);
    float sum = product(rows, x);
    int voice = voice_of_lane<1>(0);
    if (voice < VOICES && first + row < ALL) post(to + voice * ALL + first + row, finish(sum, voice, row), stamp);
  }
  return true;
}

// From what was heard to the logits, which every block gets. False if a block was lost.
__device__ bool step(const Here& here, const Call& call, long long t) {
  const unsigned stamp = (unsigned)t + 1;
  const int warp = threadIdx.x / 32;
  float* ahead = here.ahead;
  open_first(here, call, stamp);
  for (int layer = 0; layer < LAYERS; ++layer) {
    if (layer && TAPS > 1) {
      if ((t + 1 & window(layer) - 1) == 0 && !look_back(here, call, layer, ahead, t)) return false;
      ahead += slots(layer) * VOICES * 2 * CHANNELS;
    }
    const int next = layer + 1, channel = warp;  // this warp's first; rows go to the warps without a channel first
    const int row = (warp + WARPS - CHANNELS % WARPS) % WARPS;
    const float* ahead_now = ahead + (TAPS > 1 && next < LAYERS ? slot(t, next) * VOICES * 2 * CHANNELS : 0);
    Gates gates;  // weights are on their way while the others are waited for
    Rows<1, WIDTH, BYTES> rows;
    if (next < LAYERS && channel < CHANNELS) gates.fetch(here, next, channel, ahead_now);
    if (row < CHANNELS + SAYS) rows.fetch(here.slab(layer), 2 * CHANNELS + row);
    const Mail *mails_x = mail_x(call, layer, t), *mails_z = mail_z(call, layer);
    bool all = is_folded(layer)
                   ? take<2 * BOX>([=](int n) { return n < BOX ? mails_x + n : mails_z + (n - BOX); },
                                   [=](int) { return stamp; }, 2 * BOX, here.x(layer), call.lost)
                   : take_box<BOX>(mails_z, here.z(layer), stamp, call.lost);
    if (__syncthreads_or(!all)) return false;
    if (next < LAYERS && is_folded(next)) open_all(here, call, next, gates, ahead_now, stamp);
    for (int r = row; r < CHANNELS + SAYS; r += WARPS) {
      if (r != row) rows.fetch(here.slab(layer), 2 * CHANNELS + r);
      carry_on(here, call, layer, r, rows, t);
    }
    if (next < LAYERS && !is_folded(next)) {
      if (!collect<BOX>(mail_x(call, next, t), here.x(next), stamp, call.lost)) return false;
      open_all(here, call, next, gates, ahead_now, stamp);
    }
  }
  return conclude<SAYS, SKIP>(
             call, here.out, call.mail + MAIL_SAID, here.heard(), call.mail + MAIL_HIDDEN, here.first_say, stamp,
             [&](float sum, int voice, int row) { return fmaxf(sum + here.told_out(voice)[row], 0.f); }) &&
         conclude<SCORES, CODES>(
             call, here.scores, call.mail + MAIL_HIDDEN, here.hidden(), call.mail + MAIL_LOGITS, here.first_score, stamp,
             [&](float sum, int, int row) { return sum + here.own[OWN_SCORES_BIAS + row]; }) &&
         collect<VOICES * CODES>(call.mail + MAIL_LOGITS, here.logits(), stamp, call.lost);
}

// Every block draws every voice's code, by the same die, or takes the one that is forced, and hears it.
__device__ void hear(const Here& here, const Call& call, long long sample) {
  if (call.forced && blockIdx.x == 0)
    for (int n = threadIdx.x; n < VOICES * CODES; n += THREADS)
      call.logits[sample * (VOICES * CODES) + n] = here.logits()[n];
  for (int voice = threadIdx.x / 32; voice < VOICES; voice += WARPS) {
    const long long at = voice * call.frames * HOP + sample;
    const int code = call.forced ? (int)call.code[at]
                                 : draw(here.logits() + voice * CODES, call.uniform[at], call.temperature, call.top_p,
                                        here.odds(voice));
    if (threadIdx.x % 32 == 0) {
      float* level = here.level + voice * (LAGS + 1);
      for (int lag = LAGS - 1; lag > 0; --lag) level[lag] = level[lag - 1];
      level[0] = (code - CODES / 2) / (CODES / 2.f);
      level[LAGS] = fminf(level[LAGS] + 1, TAPS);
      if (!call.forced && blockIdx.x == 0) call.code[at] = code;
    }
  }
  __syncthreads();
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) speak(const Call call) {
  SHARED_MEMORY(shared);
  const Here here(call, shared);
  for (int n = threadIdx.x; n < RESIDENT * SLAB; n += THREADS) ((Vector*)here.resident)[n] = here.now[n];
  for (int n = threadIdx.x; n < OWN; n += THREADS) here.own[n] = call.own[blockIdx.x * OWN + n];
  for (int n = threadIdx.x; n < VOICES * (LAGS + 1); n += THREADS) here.level[n] = call.memory[n];
  __syncthreads();
  for (long long sample = 0; sample < call.frames * HOP; ++sample) {
    if (sample % HOP == 0) be_told(here, call, sample / HOP);
    if (!step(here, call, call.clock + sample)) return;
    hear(here, call, sample);
  }
  if (blockIdx.x == 0)
    for (int n = threadIdx.x; n < VOICES * (LAGS + 1); n += THREADS) call.memory[n] = here.level[n];
}
