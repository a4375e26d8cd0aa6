// Rows that multiply weights, stored as the products for that kind of weight read them.

template <class Weight>
struct Operands {  // float32, in split order
  using Number = float;

  // A block that is in natural order, a then b.
  static INLINE_METHOD void put(float* to, const Floats& a, const Floats& b) { store_split(to, a, b); }

  // A block that is in split order.
  static INLINE_METHOD void put_split(float* to, const Floats& evens, const Floats& odds) {
    store(to, evens);
    store(to + WIDTH, odds);
  }
};

#if DOTS
template <>
struct Operands<uint16_t> {  // bfloat16, in natural order: two numbers a word
  using Number = uint16_t;

  static INLINE_METHOD void put(uint16_t* to, const Floats& a, const Floats& b) {
    put_split(to, evens_of(a, b), odds_of(a, b));
  }

  static INLINE_METHOD void put_split(uint16_t* to, const Floats& evens, const Floats& odds) {
    store(to, (rounded(odds) & 0xffff0000u) | (rounded(evens) >> 16));
  }

 private:
  // To the nearest bfloat16, ties to even, in the upper half. What the CPU makes for "not a number" stays that.
  static INLINE_METHOD Words rounded(const Floats& x) {
    const Words bits = (Words)x;
    return bits + 0x7fffu + ((bits >> 16) & 1u);
  }
};
#endif

template <class Weight>
using Number = typename Operands<Weight>::Number;
