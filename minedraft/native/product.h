// Products of a few rows with many weights, row by row: out[t][n] = sum over k of x[t][k] * w[n][k].
//
// The weights are read once, as they lie, and widened in registers. Every (t, n) sums over k in the same order whatever
// t, n and the number of rows are, so that a row's result does not depend on what shares its pass.

constexpr int MOST_ROWS = 6;
constexpr int GROUP = 16;  // weight rows that all rows are multiplied with while they are in the first cache
constexpr int64_t ROWS_AT_ONCE = 48;  // so that these rows stay in the second cache while weights stream by

constexpr int64_t TILES_AHEAD = 2;  // that weights are fetched before they are needed

// How many weight rows a tile takes for that many rows: accumulators and operands fill the registers.
constexpr int beside(int rows) { return rows == 1 ? 8 : rows <= 3 || WIDTH == 16 ? 4 : 2; }

// Adds ROWS rows times N weight rows, each given by a pointer, over all `columns`. `x` in split order, rows end to end. Where
// the weights are COLD, not in a cache yet, those that lie `ahead` further on are fetched meanwhile: the next tiles'
// memory from one end to the other, which memory likes better than many rows at once.
template <int ROWS, int N, bool COLD, class Weight>
INLINE void add_tile(const float* x, const Weight* const (&w)[N], int64_t columns, int64_t ahead,
                     Floats (&sums)[ROWS * N]) {
  constexpr int PARTS = Packed<Weight>::PARTS;
  const float* rows[ROWS];
#pragma GCC unroll 8
  for (int t = 0; t < ROWS; t++) rows[t] = opaque(x + t * columns);
  for (int64_t k = 0; k < columns; k += PARTS * WIDTH) {
    if constexpr (COLD) {
      constexpr int BYTES = N * PARTS * WIDTH * (int)sizeof(Weight);
      const char* const next = (const char*)(w[0] + ahead + k * N);
#pragma GCC unroll 8
      for (int i = 0; i < BYTES; i += 64) __builtin_prefetch(next + i, 0, 2);
    }
    if constexpr (ROWS >= 4 && N > 1) {
      // Every number of x is loaded once for all of the tile's weight rows. With 6 rows that takes every register there is,
      // so the order of things is held: a compiler that looks ahead would have to put sums aside.
#pragma GCC unroll 4
      for (int part = 0; part < PARTS; part++) {
        Floats weights[N];
#pragma GCC unroll 8
        for (int n = 0; n < N; n++) weights[n] = held(Packed<Weight>::part(load<Words>(w[n] + k), part));
#pragma GCC unroll 8
        for (int t = 0; t < ROWS; t++) {
          const Floats value = held(load<Floats>(rows[t] + k + part * WIDTH));
#pragma GCC unroll 8
          for (int n = 0; n < N; n++) sums[t * N + n] = held(sums[t * N + n] + value * weights[n]);
        }
      }
      continue;
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

// Where results go: row t, weight row n to out[t * stride + n], on top of what is there if `add`.
struct Target {
  float* out;
  int64_t stride;
  bool add;
};

// A group's sums of one row, with what belongs to them, put where they go. `scales`, `bias` and `before` may be null. One
// function for all, never inlined: so that a multiplication and an addition are always, or never, one operation, and
// results are the same bits.
NOINLINE void finish(const float* sums, const float* scales, const float* bias, const float* before, float* out) {
#pragma GCC unroll 4
  for (int i = 0; i < GROUP; i += WIDTH) {
    Floats values = load<Floats>(sums + i);
    if (scales) values *= load<Floats>(scales + i);
    if (bias) values += load<Floats>(bias + i);
    if (before) values += load<Floats>(before + i);
    store(out + i, values);
  }
}

// Sums [rows, GROUP], of which `count` of each row are real, of weight rows from number `at`.
INLINE void put(const float* sums, int64_t rows, int64_t count, const MdMatrix& m, int64_t at, const Target& target) {
  const float *scales = m.scales ? m.scales + at : nullptr, *bias = m.bias ? m.bias + at : nullptr;
  float copies[3][GROUP] = {};
  const auto whole = [&](const float* from, float* copy) -> const float* {
    if (!from || count == GROUP) return from;
    __builtin_memcpy(copy, from, count * sizeof(float));
    return copy;
  };
  scales = whole(scales, copies[0]);
  bias = whole(bias, copies[1]);
  for (int64_t t = 0; t < rows; t++, sums += GROUP) {
    float* const out = target.out + t * target.stride + at;
    const float* const before = whole(target.add ? out : nullptr, copies[2]);
    if (count == GROUP) {
      finish(sums, scales, bias, before, out);
    } else {
      float values[GROUP];
      finish(sums, scales, bias, before, values);
      __builtin_memcpy(out, values, count * sizeof(float));
    }
  }
}

// How many of the rows [t, last) to take next: as few times as `most` allows, and about as many each time.
INLINE int64_t strip_from(int64_t t, int64_t last, int64_t most) {
  const int64_t strips = (last - t + most - 1) / most;
  return (last - t + strips - 1) / strips;
}

#if !DOTS  // panels.h multiplies instead
// ROWS rows against `tiles` times N weight rows from number `at`, at most a group.
template <int ROWS, int N, bool COLD, class Weight>
INLINE void strip(const float* x, const MdMatrix& m, int64_t at, int64_t tiles, const Target& target) {
  const int64_t columns = m.columns;
  const Weight* w = (const Weight*)m.weights + at * columns;
  alignas(64) float found[ROWS * GROUP] = {};
  for (int64_t i = 0; i < tiles; i++, w += N * columns) {
    const Weight* rows[N];
    for (int n = 0; n < N; n++) rows[n] = w + n * columns;
    Floats sums[ROWS * N] = {};
    add_tile<ROWS, N, COLD>(x, rows, columns, TILES_AHEAD * N * columns, sums);
    float values[ROWS * N];
    all_sums(sums, values);
#pragma GCC unroll 16
    for (int j = 0; j < ROWS * N; j++) found[j / N * GROUP + i * N + j % N] = values[j];
  }
  put(found, ROWS, tiles * N, m, at, target);
}

// ROWS rows against `count` weight rows from number `at`, at most a group.
template <int ROWS, class Weight>
void rows_by_group(const float* x, const MdMatrix& m, int64_t at, int64_t count, bool cold, const Target& target) {
  constexpr int N = beside(ROWS);
  if (count == GROUP && cold) return strip<ROWS, N, true, Weight>(x, m, at, GROUP / N, target);
  if (count == GROUP) return strip<ROWS, N, false, Weight>(x, m, at, GROUP / N, target);
  strip<ROWS, 1, false, Weight>(x, m, at, count, target);
}

// `count` rows of operands, end to end, times weight rows [from, to) of a matrix, with its scales and bias.
template <class Weight>
void multiply(const Operand<Weight>* x, int64_t count, const MdMatrix& m, int64_t from, int64_t to, const Target& target) {
  using Group = void (*)(const float*, const MdMatrix&, int64_t, int64_t, bool, const Target&);
  static constexpr Group BY_ROWS[] = {rows_by_group<1, Weight>, rows_by_group<2, Weight>, rows_by_group<3, Weight>,
                                      rows_by_group<4, Weight>, rows_by_group<5, Weight>, rows_by_group<6, Weight>};
  for (int64_t first = 0; first < count; first += ROWS_AT_ONCE) {
    const int64_t last = first + ROWS_AT_ONCE < count ? first + ROWS_AT_ONCE : count;
    for (int64_t n = from; n < to; n += GROUP) {
      const int64_t some = n + GROUP < to ? GROUP : to - n;
      for (int64_t t = first, rows; t < last; t += rows) {
        rows = strip_from(t, last, MOST_ROWS);
        const Target here{target.out + t * target.stride, target.stride, target.add};
        BY_ROWS[rows - 1](x[t * (m.columns / BLOCK)].values, m, n, some, t == first, here);
      }
    }
  }
}
#endif
