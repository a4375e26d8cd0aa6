// Numbers that begin at a cache line, so that no vector lies in two. Here and not in common.h, like all that has
// templates: what the compiler makes of one for this instruction set must not stand for another's.
template <class T>
class Numbers {
 public:
  Numbers() = default;
  Numbers(Numbers&& other) noexcept : first_(other.first_), size_(other.size_) { other.first_ = nullptr; }
  Numbers(const Numbers&) = delete;
  Numbers& operator=(const Numbers&) = delete;
  ~Numbers() { ::operator delete[](first_, LINE); }

  T* data() { return first_; }
  T& operator[](int64_t i) { return first_[i]; }

  // Room for that many; what was there is lost. Throws std::bad_alloc.
  void make_room(int64_t size) {
    if (size <= size_) return;
    ::operator delete[](first_, LINE);
    first_ = nullptr;
    size_ = 0;
    first_ = static_cast<T*>(::operator new[](sizeof(T) * (size + size / 2), LINE));
    size_ = size + size / 2;
  }

 private:
  static constexpr std::align_val_t LINE{64};
  T* first_ = nullptr;
  int64_t size_ = 0;
};
