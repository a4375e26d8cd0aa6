// Vectors of WIDTH floats by the compiler's own vector types: no intrinsics, any instruction set. Included once for each
// instruction set, inside a namespace; WIDTH is set before.
//
// Split order: bfloat16 pairs lie in 32-bit words, so the cheapest way to widen 2*WIDTH of them gives the even ones in
// one vector and the odd ones in another. What multiplies weights is kept in that order: in every block of 2*WIDTH
// numbers first the even places, then the odd ones.

typedef float Floats __attribute__((vector_size(4 * WIDTH)));
typedef int32_t Ints __attribute__((vector_size(4 * WIDTH)));
typedef uint32_t Words __attribute__((vector_size(4 * WIDTH)));

constexpr int BLOCK = 2 * WIDTH;

template <class V, class T>
INLINE V load(const T* from) {
  V v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}

template <class T, class V>
INLINE void store(T* to, const V& v) {
  __builtin_memcpy(to, &v, sizeof v);
}

INLINE Floats all(float x) { return x - Floats{}; }

// The same vector, of which the compiler knows nothing: it keeps it in a register, where it would otherwise read it from
// memory again each time that it is used, and makes it before whatever is held after it.
INLINE Floats held(Floats vector) {
#if WIDTH == 16 && !defined(LOWERED)
  asm volatile("" : "+v"(vector));
#elif WIDTH <= 8 && defined(__x86_64__)
  asm volatile("" : "+x"(vector));
#elif WIDTH == 4 && defined(__aarch64__)
  asm volatile("" : "+w"(vector));
#endif
  return vector;
}

// Weights lie in words of 32 bits, a vector of words at a time: PARTS vectors of floats, which stand for the PARTS *
// WIDTH numbers of `x` that follow each other in split order. `part` is a constant wherever this is unrolled.
template <class Weight>
struct Packed;

template <>
struct Packed<uint16_t> {  // bfloat16, as everybody stores it
  static constexpr int PARTS = 2;
  static INLINE_METHOD Floats part(const Words& words, int part) {
    return part == 0 ? (Floats)(words << 16) : (Floats)(words & 0xffff0000u);
  }
};

template <>
struct Packed<int8_t> {  // byte b of word i: the number at place i of vector b
  static constexpr int PARTS = 4;
  static INLINE_METHOD Floats part(const Words& words, int part) {
    return __builtin_convertvector((Ints)(words << (24 - 8 * part)) >> 24, Floats);
  }
};

INLINE float widen(uint16_t x) {
  const uint32_t bits = (uint32_t)x << 16;
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

// To bfloat16, the nearest, ties to even.
INLINE uint16_t narrow(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((bits >> 16) | 0x40);  // stays not a number
  return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

#if WIDTH == 4
#define EVEN 0, 2, 4, 6
#define ODD 1, 3, 5, 7
#elif WIDTH == 8
#define EVEN 0, 2, 4, 6, 8, 10, 12, 14
#define ODD 1, 3, 5, 7, 9, 11, 13, 15
#else
#define EVEN 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#define ODD 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
#endif

// Of a block in natural order, a then b: what is at even places, and at odd ones.
INLINE Floats evens_of(const Floats& a, const Floats& b) { return __builtin_shufflevector(a, b, EVEN); }
INLINE Floats odds_of(const Floats& a, const Floats& b) { return __builtin_shufflevector(a, b, ODD); }

#undef EVEN
#undef ODD

// The same block put into split order.
INLINE void store_split(float* to, const Floats& a, const Floats& b) {
  store(to, evens_of(a, b));
  store(to + WIDTH, odds_of(a, b));
}

// Where place i of a row lies in split order.
INLINE int64_t split_place(int64_t i) {
  const int64_t in_block = i % BLOCK;
  return i - in_block + (in_block % 2) * WIDTH + in_block / 2;
}

typedef float Four __attribute__((vector_size(16)));

// Halves onto each other until four are left.
#if WIDTH == 4
INLINE Four four(const Floats& v) { return v; }
#elif WIDTH == 8
INLINE Four four(const Floats& v) {
  return __builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7);
}
#else
INLINE Four four(const Floats& v) {
  typedef float Eight __attribute__((vector_size(32)));
  const Eight half = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
                     __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
  return __builtin_shufflevector(half, half, 0, 1, 2, 3) + __builtin_shufflevector(half, half, 4, 5, 6, 7);
}
#endif

// The sums of four vectors. Each is summed in the same order, wherever it stands.
INLINE Four sums_of(const Floats& a, const Floats& b, const Floats& c, const Floats& d) {
  const Four fa = four(a), fb = four(b), fc = four(c), fd = four(d);
  const Four ab = __builtin_shufflevector(fa, fb, 0, 4, 1, 5) + __builtin_shufflevector(fa, fb, 2, 6, 3, 7);
  const Four cd = __builtin_shufflevector(fc, fd, 0, 4, 1, 5) + __builtin_shufflevector(fc, fd, 2, 6, 3, 7);
  return __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
}

INLINE float sum(const Floats& v) { return sums_of(v, v, v, v)[0]; }

INLINE Floats larger(const Floats& a, const Floats& b) { return a > b ? a : b; }

INLINE float largest(const Floats& v) {
  float peak = v[0];
  for (int i = 1; i < WIDTH; i++) peak = v[i] > peak ? v[i] : peak;
  return peak;
}

// exp(x) for x <= 0 or so, to 2 units in the last place: 2^n * e^r with |r| <= ln(2)/2, after Cephes' expf. Below -87: 0.
INLINE Floats exponential(const Floats& given) {
  const Floats tiny = all(-87.0f), huge = all(88.0f);
  Floats x = larger(given, tiny);
  x = x < huge ? x : huge;
  const Floats magic = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
  const Floats shifted = x * 1.44269504088896341f + magic;
  const Floats n = shifted - magic;
  const Floats r = x - n * 0.693359375f - n * -2.12194440e-4f;
  Floats y = all(1.9875691500e-4f);
  y = y * r + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * (r * r) + r + 1.0f;
  const Ints power = ((Ints)shifted - (Ints)magic + 127) << 23;
  const Floats result = y * (Floats)power;
  return given < tiny ? Floats{} : result;
}
