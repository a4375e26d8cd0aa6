// Rows that multiply weights, block by block, as the products for that kind of weight read them: `put` takes a block in
// split order.

template <class Weight>
struct Operands {  // float32, in split order
  struct Block {
    float values[BLOCK];
  };

  static INLINE_METHOD void put(Block& to, const Floats& evens, const Floats& odds) {
    store(to.values, evens);
    store(to.values + WIDTH, odds);
  }
};

#if DOTS
template <>
struct Operands<uint16_t> {  // bfloat16, in natural order
  struct Block {
    uint32_t words[BLOCK / 2];
  };

  static INLINE_METHOD void put(Block& to, const Floats& evens, const Floats& odds) {
    store(to.words, (rounded(odds) & 0xffff0000u) | (rounded(evens) >> 16));
  }

 private:
  // To the nearest bfloat16, ties to even, in the upper half. What the CPU makes for "not a number" stays that.
  static INLINE_METHOD Words rounded(const Floats& x) {
    const Words bits = (Words)x;
    return bits + 0x7fffu + ((bits >> 16) & 1u);
  }
};

template <>
struct Operands<int8_t> {  // 8 bits and one scale a block, in split order
  struct Block {
    uint32_t words[BLOCK / 4];
    float scale;
    int32_t before;  // what sums begin with, since weights are 128 too large: -128 times the sum of the values
  };

  static INLINE_METHOD void put(Block& to, const Floats& evens, const Floats& odds) {
    const float peak = largest(larger(larger(evens, -evens), larger(odds, -odds)));
    to.scale = peak / 127.0f;
    const float times = peak > 0.0f ? 127.0f / peak : 0.0f;
    const Floats magic = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number, in the lowest bits
    const Ints low = (Ints)(evens * times + magic) - (Ints)magic, high = (Ints)(odds * times + magic) - (Ints)magic;
    const Ints both = low + high;
    int32_t total = 0;
    for (int i = 0; i < WIDTH; i++) total += both[i];
    to.before = -128 * total;
    typedef int8_t Bytes __attribute__((vector_size(WIDTH)));
    store((int8_t*)to.words, __builtin_convertvector(low, Bytes));
    store((int8_t*)to.words + WIDTH, __builtin_convertvector(high, Bytes));
  }
};
#endif

template <class Weight>
using Operand = typename Operands<Weight>::Block;

// A block that is in natural order, a then b.
template <class Weight>
INLINE void put_natural(Operand<Weight>& to, const Floats& a, const Floats& b) {
  Operands<Weight>::put(to, evens_of(a, b), odds_of(a, b));
}
