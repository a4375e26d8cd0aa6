// What every instruction set shares.
#pragma once

#include <cstdint>
#include <new>
#include <utility>
#include <vector>

#include "pass.h"
#include "team.h"

// Compilers before GCC 10 and Clang 9 know no dot instructions for bfloat16; the other kinds are compiled all the same.
#if defined(__x86_64__) && (defined(LOWERED) || __has_include(<avx512bf16intrin.h>))
#define HAS_DOTS 1
#else
#define HAS_DOTS 0
#endif

#define INLINE static inline __attribute__((always_inline))
#define INLINE_METHOD inline __attribute__((always_inline))
#define NOINLINE static __attribute__((noinline))

namespace minedraft {
constexpr int64_t MOST_DIM = 256;  // of a head

// The same pointer, of which the compiler knows nothing: it then keeps one a row in a register and one index for all,
// where it would otherwise keep a pointer for each place that is read, and run out of registers.
template <class T>
INLINE T* opaque(T* pointer) {
  asm("" : "+r"(pointer));
  return pointer;
}

// A model that is ready to run, on the instruction set that it was made for. Used by one thread at a time.
class Runner {
 public:
  virtual ~Runner() = default;
  virtual void run(const MdBatch& batch) = 0;  // throws std::bad_alloc before anything is written
};

}  // namespace minedraft
