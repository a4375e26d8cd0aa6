// Products of a few rows with many weights: out[t][n] = sum over k of x[t][k] * w[n][k].
//
// The weights are read once, as they lie, and widened in registers. Every (t, n) sums over k in the same order whatever
// t, n and the number of rows are, so that a row's result does not depend on what shares its pass.

constexpr int MOST_ROWS = 6;
constexpr int GROUP = 16;  // weight rows that all rows are multiplied with while they are in the first cache
constexpr int64_t ROWS_AT_ONCE = 48;  // so that these rows stay in the second cache while weights stream by

constexpr int64_t TILES_AHEAD = 2;  // that weights are fetched before they are needed
constexpr int64_t COLUMNS_AT_ONCE = 1536;  // so that a tile's rows stay near from tile to tile

// How many weight rows a tile takes for that many rows: accumulators and operands fill the registers.
constexpr int beside(int rows) { return rows == 1 ? 8 : rows <= 3 ? 4 : 2; }

// Adds ROWS rows times N weight rows, each given by a pointer, over columns [from, to). `x` in split order, `stride`
// floats from row to row. Where the weights are COLD, not in a cache yet, those that lie `ahead` further on are fetched
// meanwhile: the next tiles' memory from one end to the other, which memory likes better than many rows at once.
template <int ROWS, int N, bool COLD, class Weight>
INLINE void add_tile(const float* x, int64_t stride, const Weight* const (&w)[N], int64_t from, int64_t to,
                     int64_t ahead, Floats (&sums)[ROWS * N]) {
  constexpr int PARTS = Packed<Weight>::PARTS;
  const float* rows[ROWS];
#pragma GCC unroll 8
  for (int t = 0; t < ROWS; t++) rows[t] = opaque(x + t * stride);
  for (int64_t k = from; k < to; k += PARTS * WIDTH) {
    if constexpr (COLD) {
      constexpr int BYTES = N * PARTS * WIDTH * (int)sizeof(Weight);
      const char* const next = (const char*)(w[0] + ahead + k * N);
#pragma GCC unroll 8
      for (int i = 0; i < BYTES; i += 64) __builtin_prefetch(next + i, 0, 2);
    }
#pragma GCC unroll 8
    for (int n = 0; n < N; n++) {
      const Words words = load<Words>(w[n] + k);
#pragma GCC unroll 4
      for (int part = 0; part < PARTS; part++) {
        const Floats weights = Packed<Weight>::part(words, part);
#pragma GCC unroll 8
        for (int t = 0; t < ROWS; t++)
          sums[t * N + n] += load<Floats>(rows[t] + k + part * WIDTH) * weights;
      }
    }
  }
}

// out[i] = the sum of vectors[i].
template <int COUNT>
INLINE void all_sums(const Floats (&vectors)[COUNT], float* out) {
  constexpr int WHOLE = COUNT / 4 * 4;
#pragma GCC unroll 8
  for (int i = 0; i < WHOLE; i += 4) store(out + i, sums_of(vectors[i], vectors[i + 1], vectors[i + 2], vectors[i + 3]));
#pragma GCC unroll 8
  for (int i = WHOLE; i < COUNT; i++) out[i] = sum(vectors[i]);
}

// out[t * N + n] = row t times weight row n.
template <int ROWS, int N, class Weight>
INLINE void tile(const float* x, int64_t stride, const Weight* const (&w)[N], int64_t columns, float* out) {
  Floats sums[ROWS * N] = {};
  add_tile<ROWS, N, false>(x, stride, w, 0, columns, 0, sums);
  all_sums(sums, out);
}

// Where results go: row t, weight row n to out[t * stride + n], on top of what is there if `add`.
struct Target {
  float* out;
  int64_t stride;
  bool add;
};

// Puts sums [rows, count] of weight rows from number `at` where they go. One function for all, never inlined: so
// that a multiplication and an addition are always, or never, one operation, and results are the same bits.
NOINLINE void put(const float* sums, int64_t rows, int64_t count, const MdMatrix& m, int64_t at, const Target& target) {
  for (int64_t t = 0; t < rows; t++, sums += count) {
    float* const out = target.out + t * target.stride + at;
    float values[GROUP];
    for (int64_t n = 0; n < count; n++) values[n] = m.scales ? sums[n] * m.scales[at + n] : sums[n];
    if (m.bias)
      for (int64_t n = 0; n < count; n++) values[n] += m.bias[at + n];
    if (target.add)
      for (int64_t n = 0; n < count; n++) values[n] += out[n];
    for (int64_t n = 0; n < count; n++) out[n] = values[n];
  }
}

// ROWS rows against the N * TILES weight rows from number `at`.
template <int ROWS, int N, int TILES, bool COLD, class Weight>
INLINE void strip(const float* x, const MdMatrix& m, int64_t at, const Target& target) {
  const int64_t columns = m.columns;
  const Weight* const w = (const Weight*)m.weights + at * columns;
  Floats sums[TILES][ROWS * N] = {};
  for (int64_t k = 0; k < columns; k += COLUMNS_AT_ONCE) {
    const int64_t end = k + COLUMNS_AT_ONCE < columns ? k + COLUMNS_AT_ONCE : columns;
    for (int i = 0; i < TILES; i++) {
      const Weight* rows[N];
      for (int n = 0; n < N; n++) rows[n] = w + (i * N + n) * columns;
      Floats now[ROWS * N];
#pragma GCC unroll 16
      for (int j = 0; j < ROWS * N; j++) now[j] = sums[i][j];
      add_tile<ROWS, N, COLD>(x, columns, rows, k, end, TILES_AHEAD * N * columns, now);
#pragma GCC unroll 16
      for (int j = 0; j < ROWS * N; j++) sums[i][j] = now[j];
    }
  }
  float found[ROWS * TILES * N];
  for (int i = 0; i < TILES; i++) {
    float values[ROWS * N];
    all_sums(sums[i], values);
    for (int t = 0; t < ROWS; t++)
      for (int n = 0; n < N; n++) found[(t * TILES + i) * N + n] = values[t * N + n];
  }
  put(found, ROWS, TILES * N, m, at, target);
}

// ROWS rows against `count` weight rows from number `at`, at most a group.
template <int ROWS, class Weight>
void rows_by_group(const float* x, const MdMatrix& m, int64_t at, int64_t count, bool cold, const Target& target) {
  constexpr int N = beside(ROWS);
  if (count == GROUP && cold) return strip<ROWS, N, GROUP / N, true, Weight>(x, m, at, target);
  if (count == GROUP) return strip<ROWS, N, GROUP / N, false, Weight>(x, m, at, target);
  for (int64_t n = at; n < at + count; n++) strip<ROWS, 1, 1, false, Weight>(x, m, n, target);
}

template <class Weight>
void rows_by_weights(const float* x, int64_t count, const MdMatrix& m, int64_t from, int64_t to, const Target& target) {
  using Group = void (*)(const float*, const MdMatrix&, int64_t, int64_t, bool, const Target&);
  static constexpr Group BY_ROWS[] = {rows_by_group<1, Weight>, rows_by_group<2, Weight>, rows_by_group<3, Weight>,
                                      rows_by_group<4, Weight>, rows_by_group<5, Weight>, rows_by_group<6, Weight>};
  for (int64_t first = 0; first < count; first += ROWS_AT_ONCE) {
    const int64_t last = first + ROWS_AT_ONCE < count ? first + ROWS_AT_ONCE : count;
    for (int64_t n = from; n < to; n += GROUP) {
      const int64_t some = n + GROUP < to ? GROUP : to - n;
      for (int64_t t = first; t < last;) {
        const int64_t strips = (last - t + MOST_ROWS - 1) / MOST_ROWS;
        const int64_t rows = (last - t + strips - 1) / strips;
        const Target here{target.out + t * target.stride, target.stride, target.add};
        BY_ROWS[rows - 1](x + t * m.columns, m, n, some, t == first, here);
        t += rows;
      }
    }
  }
}

// `count` rows in split order, end to end, times weight rows [from, to) of a matrix, with its scales and bias.
void multiply(const float* x, int64_t count, const MdMatrix& m, int64_t from, int64_t to, const Target& target) {
  if (m.scales) rows_by_weights<int8_t>(x, count, m, from, to, target);
  else rows_by_weights<uint16_t>(x, count, m, from, to, target);
}
