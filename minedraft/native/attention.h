// Attention of new tokens to their own sequences over the paged store, causal. Softmax in float32.

constexpr int TOGETHER = MOST_ROWS;  // queries that read K and V together
constexpr int64_t SLOTS_AHEAD = 16;  // that K and V are fetched before they are needed

// Some queries of one KV head of a sequence, in order of position. What comes out is multiplied with such weights.
template <class Weight>
struct Queries {
  const float* q;          // [count, D], rotated and scaled, split order
  const int64_t* lengths;  // [count] tokens of the context that each sees, never falling
  Operand<Weight>* const* out;  // [count] -> [D / BLOCK]
  int64_t count, head_dim;
  float* scores;  // room for `count` rows of the last length, rounded up to whole vectors
};

// One KV head of a layer of the store, as one sequence sees it.
struct Context {
  const uint16_t *keys, *values;
  int64_t pitch;         // from slot to slot
  const int64_t* slots;  // in order of position
};

// `count` numbers of a slot, fetched before they are needed: slots lie anywhere, so no hardware foresees them.
INLINE void fetch(const uint16_t* row, int64_t count) {
  constexpr int64_t LINE = 64 / sizeof(uint16_t);
  for (int64_t i = 0; i < count; i += LINE) __builtin_prefetch(row + i, 0, 3);
}

// The slot that is needed `SLOTS_AHEAD` after place j of the keys: of the values, once there are no more keys.
INLINE void fetch_after(const Context& context, int64_t j, int64_t length, int64_t count) {
  const int64_t next = j + SLOTS_AHEAD, after = next - length;
  if (next < length) fetch(context.keys + context.slots[next] * context.pitch, count);
  else if (after < length) fetch(context.values + context.slots[after] * context.pitch, count);
}

template <int ROWS, int N, class Weight>
INLINE void some_scores(const Queries<Weight>& some, const Context& context, int64_t j, int64_t room) {
  const uint16_t* rows[N];
  for (int i = 0; i < N; i++) rows[i] = context.keys + context.slots[j + i] * context.pitch;
  for (int i = 0; i < N; i++) fetch_after(context, j + i, some.lengths[ROWS - 1], some.head_dim);
  Floats sums[ROWS * N] = {};
  add_tile<ROWS, N, false>(some.q, rows, some.head_dim, 0, sums);
  float values[ROWS * N];
  all_sums(sums, values);
  for (int t = 0; t < ROWS; t++)
    for (int i = 0; i < N; i++) some.scores[t * room + j + i] = values[t * N + i];
}

// Scores to weights that do not sum to 1, zeros to the end of the room; returns 1 / their sum.
INLINE float weigh(float* scores, int64_t length, int64_t room) {
  const float nothing = -3e38f;
  for (int64_t j = length; j < room; j++) scores[j] = nothing;
  Floats most = all(nothing);
  for (int64_t j = 0; j < room; j += WIDTH) most = larger(most, load<Floats>(scores + j));
  const float peak = largest(most);
  Floats total = {};
  for (int64_t j = 0; j < room; j += WIDTH) {
    const Floats weights = exponential(load<Floats>(scores + j) - peak);
    store(scores + j, weights);
    total += weights;
  }
  return 1.0f / sum(total);
}

// Blocks of a head's dimensions from `from`, summed over the context.
template <int ROWS, int BLOCKS, class Weight>
INLINE void blend(const Queries<Weight>& some, const Context& context, int64_t from, int64_t room, const float* scales) {
  Floats sums[ROWS][2 * BLOCKS] = {};
  const int64_t length = some.lengths[ROWS - 1];
  for (int64_t j = 0; j < length; j++) {
    const uint16_t* row = context.values + context.slots[j] * context.pitch + from;
    if (j + SLOTS_AHEAD < length)
      fetch(context.values + context.slots[j + SLOTS_AHEAD] * context.pitch + from, BLOCKS * BLOCK);
#pragma GCC unroll 4
    for (int b = 0; b < BLOCKS; b++) {
      const Words words = load<Words>(row + b * BLOCK);
#pragma GCC unroll 2
      for (int part = 0; part < 2; part++) {
        const Floats value = Packed<uint16_t>::part(words, part);
#pragma GCC unroll 8
        for (int t = 0; t < ROWS; t++) sums[t][2 * b + part] += some.scores[t * room + j] * value;
      }
    }
  }
  for (int t = 0; t < ROWS; t++)
    for (int b = 0; b < BLOCKS; b++)
      Operands<Weight>::put(some.out[t][from / BLOCK + b], sums[t][2 * b] * scales[t], sums[t][2 * b + 1] * scales[t]);
}

template <int ROWS, class Weight>
void attend_together(const Queries<Weight>& some, const Context& context) {
  constexpr int N = beside(ROWS), BLOCKS = ROWS <= 3 ? 2 : 1;
  const int64_t longest = some.lengths[ROWS - 1];
  const int64_t room = (longest + WIDTH - 1) / WIDTH * WIDTH;
  int64_t j = 0;
  for (; j + N <= longest; j += N) some_scores<ROWS, N>(some, context, j, room);
  for (; j < longest; j++) some_scores<ROWS, 1>(some, context, j, room);
  float scales[ROWS];
  for (int t = 0; t < ROWS; t++) scales[t] = weigh(some.scores + t * room, some.lengths[t], room);
  int64_t d = 0;
  for (; d + BLOCKS * BLOCK <= some.head_dim; d += BLOCKS * BLOCK) blend<ROWS, BLOCKS>(some, context, d, room, scales);
  for (; d < some.head_dim; d += BLOCK) blend<ROWS, 1>(some, context, d, room, scales);
}

template <class Weight>
void attend(const Queries<Weight>& some, const Context& context) {
  using Together = void (*)(const Queries<Weight>&, const Context&);
  static constexpr Together BY_ROWS[] = {attend_together<1, Weight>, attend_together<2, Weight>, attend_together<3, Weight>,
                                         attend_together<4, Weight>, attend_together<5, Weight>, attend_together<6, Weight>};
  BY_ROWS[some.count - 1](some, context);
}
