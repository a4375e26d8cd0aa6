// What every instruction set shares.
#pragma once

#include <cstdint>
#include <new>
#include <vector>

#include "pass.h"
#include "team.h"

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

// Floats that begin at a cache line, so that no vector lies in two.
class Numbers {
 public:
  Numbers() = default;
  Numbers(Numbers&& other) noexcept : first_(other.first_), size_(other.size_) { other.first_ = nullptr; }
  Numbers(const Numbers&) = delete;
  Numbers& operator=(const Numbers&) = delete;
  ~Numbers() { ::operator delete[](first_, LINE); }

  float* data() { return first_; }
  float& operator[](int64_t i) { return first_[i]; }

  // Room for that many; what was there is lost. Throws std::bad_alloc.
  void make_room(int64_t size) {
    if (size <= size_) return;
    ::operator delete[](first_, LINE);
    first_ = nullptr;
    size_ = 0;
    first_ = static_cast<float*>(::operator new[](sizeof(float) * (size + size / 2), LINE));
    size_ = size + size / 2;
  }

 private:
  static constexpr std::align_val_t LINE{64};
  float* first_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace minedraft
