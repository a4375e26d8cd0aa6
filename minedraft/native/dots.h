// Products of bfloat16 rows with bfloat16 weights by the CPU's instruction for them, which adds two products to a sum.
//
// The weights lie in panels of WIDTH rows: the first pair of numbers of each row, then the second pair of each, and so
// on; the last panel is filled up with zeros. A vector of sums then belongs to WIDTH weight rows, so nothing is summed
// across a vector. Every sum goes over the pairs in order, whatever the number of rows is and whatever shares the pass.

constexpr int MOST_DOT_ROWS = 12;
static_assert(GROUP == WIDTH, "a panel is a group");

// How many panels are multiplied together: sums and operands fill 32 registers.
constexpr int panels_for(int64_t rows) { return rows <= 6 ? 4 : 2; }

INLINE Floats add_pairs(const Floats& sums, const Words& weights, const Words& x) {
#ifdef LOWERED
  const uint32_t upper = 0xffff0000u;
  return sums + (Floats)(weights & upper) * (Floats)(x & upper) + (Floats)(weights << 16) * (Floats)(x << 16);
#else
  return (Floats)_mm512_dpbf16_ps((__m512)sums, (__m512bh)weights, (__m512bh)x);
#endif
}

// ROWS rows, end to end, against N panels from weight row `at`, of which `count` weight rows are real. Where the weights
// are `cold`, the N panels after these are fetched meanwhile: memory from one end to the other, as it likes best.
template <int ROWS, int N>
void rows_by_panels(const uint16_t* x, const MdMatrix& m, int64_t at, int64_t count, bool cold, const Target& target) {
  constexpr int POINTERS = (ROWS + 2) / 3;  // one for three rows: with one for each, registers run out
  const int64_t pairs = m.columns / 2, panel = pairs * WIDTH;
  const uint32_t* weights = (const uint32_t*)m.weights + at * pairs;
  const uint32_t* next = weights + (cold ? N * panel : 0);
  const uint32_t* rows[POINTERS];
#pragma GCC unroll 4
  for (int i = 0; i < POINTERS; i++) rows[i] = (const uint32_t*)x + 3 * i * pairs;
  Floats sums[ROWS * N] = {};
  for (int64_t k = 0; k < pairs; k++, weights += WIDTH, next += N * WIDTH) {
    Words words[N];
#pragma GCC unroll 4
    for (int n = 0; n < N; n++) {
      words[n] = load<Words>(weights + n * panel);
      __builtin_prefetch(next + n * WIDTH, 0, 2);
    }
#pragma GCC unroll 12
    for (int t = 0; t < ROWS; t++) {
      const Words pair = Words{} + load<uint32_t>(rows[t / 3] + t % 3 * pairs);
#pragma GCC unroll 4
      for (int n = 0; n < N; n++) sums[t * N + n] = add_pairs(sums[t * N + n], words[n], pair);
    }
#pragma GCC unroll 4
    for (int i = 0; i < POINTERS; i++) rows[i] = opaque(rows[i] + 1);
  }
#pragma GCC unroll 4
  for (int n = 0; n < N; n++) {
    alignas(64) float found[ROWS * GROUP];
#pragma GCC unroll 12
    for (int t = 0; t < ROWS; t++) store(found + t * GROUP, sums[t * N + n]);
    const int64_t left = count - n * WIDTH;
    put(found, ROWS, left < WIDTH ? left : WIDTH, m, at + n * WIDTH, target);
  }
}

using Panels = void (*)(const uint16_t*, const MdMatrix&, int64_t, int64_t, bool, const Target&);

template <int N, int... I>
INLINE Panels panels_by(int64_t rows, std::integer_sequence<int, I...>) {
  static constexpr Panels BY_ROWS[] = {rows_by_panels<I + 1, N>...};
  return BY_ROWS[rows - 1];
}

INLINE Panels panels_by(int64_t rows, int64_t panels) {
  if (panels == 4) return panels_by<4>(rows, std::make_integer_sequence<int, 6>());
  if (panels == 2) return panels_by<2>(rows, std::make_integer_sequence<int, MOST_DOT_ROWS>());
  return panels_by<1>(rows, std::make_integer_sequence<int, MOST_DOT_ROWS>());
}

// `from` begins a panel.
template <>
void multiply<uint16_t>(const uint16_t* x, int64_t count, const MdMatrix& m, int64_t from, int64_t to, const Target& target) {
  for (int64_t first = 0; first < count; first += ROWS_AT_ONCE) {
    const int64_t last = first + ROWS_AT_ONCE < count ? first + ROWS_AT_ONCE : count;
    int64_t panels = 0;
    for (int64_t n = from; n < to; n += panels * WIDTH) {
      const int64_t left = (to - n + WIDTH - 1) / WIDTH;
      for (panels = panels_for(strip_from(first, last, MOST_DOT_ROWS)); panels > left;) panels /= 2;
      const int64_t some = panels * WIDTH < to - n ? panels * WIDTH : to - n;
      for (int64_t t = first, rows; t < last; t += rows) {
        rows = strip_from(t, last, MOST_DOT_ROWS);
        const Target here{target.out + t * target.stride, target.stride, target.add};
        panels_by(rows, panels)(x + t * m.columns, m, n, some, t == first, here);
      }
    }
  }
}
