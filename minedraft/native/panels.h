// Products by the CPU's dot instructions, which add two products of bfloat16 numbers, or four of 8 bits, to each sum.
//
// Weights lie in panels of WIDTH rows: the first word of each row, then the second word of each, and so on; the last panel
// is filled up with zeros. A vector of sums then belongs to WIDTH weight rows, so nothing is summed across a vector. Every
// sum goes over the words in order, whatever the number of rows is and whatever shares the pass.

static_assert(GROUP == WIDTH, "a panel is a group");

template <class Weight>
struct Dots;

template <>
struct Dots<uint16_t> {
  static constexpr int MOST_ROWS_AT_ONCE = 12;

  // How many panels are multiplied together: sums and what they are made of fill 32 registers.
  static constexpr int panels_for(int64_t rows) { return rows <= 6 ? 4 : 2; }

  static INLINE_METHOD Floats begin(const Floats& sums, const Operand<uint16_t>&) { return sums; }

  static INLINE_METHOD Floats add(const Floats& sums, const Words& weights, const Words& x) {
#ifdef LOWERED
    const uint32_t upper = 0xffff0000u;
    return sums + (Floats)(weights & upper) * (Floats)(x & upper) + (Floats)(weights << 16) * (Floats)(x << 16);
#else
    return (Floats)_mm512_dpbf16_ps((__m512)sums, (__m512bh)weights, (__m512bh)x);
#endif
  }

  static INLINE_METHOD Floats end(const Floats&, const Floats& of_block, const Operand<uint16_t>&) { return of_block; }
};

template <>
struct Dots<int8_t> {  // weights are 128 too large, since one side is to have no sign
  static constexpr int MOST_ROWS_AT_ONCE = 12;

  static constexpr int panels_for(int64_t rows) { return rows <= 2 ? 4 : rows <= 6 ? 2 : 1; }

  static INLINE_METHOD Ints begin(const Floats&, const Operand<int8_t>& x) { return x.before - Ints{}; }

  static INLINE_METHOD Ints add(const Ints& sums, const Words& weights, const Words& x) {
#ifdef LOWERED
    Ints added = sums;
    for (int b = 0; b < 4; b++) added += (Ints)(weights >> (8 * b) & 255u) * ((Ints)(x << (24 - 8 * b)) >> 24);
    return added;
#else
    return (Ints)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)weights, (__m512i)x);
#endif
  }

  static INLINE_METHOD Floats end(const Floats& sums, const Ints& of_block, const Operand<int8_t>& x) {
    return sums + __builtin_convertvector(of_block, Floats) * x.scale;
  }
};

// ROWS rows, end to end, against N panels from weight row `at`, of which `count` weight rows are real. Where the weights
// are `cold`, the N panels after these are fetched meanwhile: memory from one end to the other, as it likes best.
template <class Weight, int ROWS, int N>
void rows_by_panels(const Operand<Weight>* x, const MdMatrix& m, int64_t at, int64_t count, bool cold, const Target& target) {
  constexpr int WORDS = BLOCK * sizeof(Weight) / sizeof(uint32_t);  // of a block
  constexpr int POINTERS = (ROWS + 2) / 3;  // one for three rows: with one for each, registers run out
  const int64_t blocks = m.columns / BLOCK, panel = blocks * WORDS * WIDTH;
  const uint32_t* weights = (const uint32_t*)m.weights + at / WIDTH * panel;
  const uint32_t* next = weights + (cold ? N * panel : 0);
  const Operand<Weight>* rows[POINTERS];
#pragma GCC unroll 4
  for (int i = 0; i < POINTERS; i++) rows[i] = x + 3 * i * blocks;
  const auto row = [&](int t) -> const Operand<Weight>& { return rows[t / 3][t % 3 * blocks]; };
  Floats sums[ROWS * N] = {};
  for (int64_t b = 0; b < blocks; b++) {
    decltype(Dots<Weight>::begin(Floats{}, *x)) of_block[ROWS * N];
#pragma GCC unroll 24
    for (int i = 0; i < ROWS * N; i++) of_block[i] = Dots<Weight>::begin(sums[i], row(i / N));
#pragma GCC unroll 2
    for (int k = 0; k < WORDS; k++, weights += WIDTH, next += N * WIDTH) {
      Words words[N];
#pragma GCC unroll 4
      for (int n = 0; n < N; n++) {
        words[n] = load<Words>(weights + n * panel);
        __builtin_prefetch(next + n * WIDTH, 0, 2);
      }
#pragma GCC unroll 12
      for (int t = 0; t < ROWS; t++) {
        const Words word = row(t).words[k] - Words{};
#pragma GCC unroll 4
        for (int n = 0; n < N; n++) of_block[t * N + n] = Dots<Weight>::add(of_block[t * N + n], words[n], word);
      }
    }
#pragma GCC unroll 24
    for (int i = 0; i < ROWS * N; i++) sums[i] = Dots<Weight>::end(sums[i], of_block[i], row(i / N));
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

template <class Weight>
using Panels = void (*)(const Operand<Weight>*, const MdMatrix&, int64_t, int64_t, bool, const Target&);

// The function for that many rows, at most sizeof...(I), and N panels.
template <class Weight, int N, int... I>
INLINE Panels<Weight> by_rows(int64_t rows, std::integer_sequence<int, I...>) {
  static constexpr Panels<Weight> FUNCTIONS[] = {rows_by_panels<Weight, I + 1, N>...};
  return FUNCTIONS[rows - 1];
}

template <class Weight>
INLINE Panels<Weight> panels_by(int64_t rows, int64_t panels) {
  constexpr auto FEW = std::make_integer_sequence<int, 6>();
  constexpr auto MANY = std::make_integer_sequence<int, Dots<Weight>::MOST_ROWS_AT_ONCE>();
  if (panels == 4) return by_rows<Weight, 4>(rows, FEW);
  if (panels == 2) return by_rows<Weight, 2>(rows, MANY);
  return by_rows<Weight, 1>(rows, MANY);
}

// See `multiply` of product.h. `from` begins a panel.
template <class Weight>
void multiply(const Operand<Weight>* x, int64_t count, const MdMatrix& m, int64_t from, int64_t to, const Target& target) {
  constexpr int MOST = Dots<Weight>::MOST_ROWS_AT_ONCE;
  for (int64_t first = 0; first < count; first += ROWS_AT_ONCE) {
    const int64_t last = first + ROWS_AT_ONCE < count ? first + ROWS_AT_ONCE : count;
    int64_t panels = 0;
    for (int64_t n = from; n < to; n += panels * WIDTH) {
      const int64_t left = (to - n + WIDTH - 1) / WIDTH;
      for (panels = Dots<Weight>::panels_for(strip_from(first, last, MOST)); panels > left;) panels /= 2;
      const int64_t some = panels * WIDTH < to - n ? panels * WIDTH : to - n;
      for (int64_t t = first, rows; t < last; t += rows) {
        rows = strip_from(t, last, MOST);
        const Target here{target.out + t * target.stride, target.stride, target.add};
        panels_by<Weight>(rows, panels)(x + t * (m.columns / BLOCK), m, n, some, t == first, here);
      }
    }
  }
}
