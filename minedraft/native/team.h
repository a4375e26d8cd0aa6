// Threads that run one job together, and meet within it. The caller is one of them. Between jobs they sleep: services
// that share cores need them, and a thread that waits by spinning gains nothing that could be measured.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace minedraft {

class Team {
 public:
  // Throws std::system_error when the system gives no more threads.
  explicit Team(int size) : size_(size < 1 ? 1 : size) {
    try {
      for (int i = 1; i < size_; i++) threads_.emplace_back([this, i] { serve(i); });
    } catch (...) {
      end();
      throw;
    }
  }

  ~Team() { end(); }

  int size() const { return size_; }

  // Runs job(member) on every member, 0 being the caller; returns when all are done. For one caller at a time.
  void run(const std::function<void(int)>& job) {
    if (size_ == 1) return job(0);
    {
      std::lock_guard<std::mutex> guard(mutex_);
      job_ = &job;
      number_++;
    }
    wake_.notify_all();
    job(0);
    meet();
  }

  // Some of `count` things that nobody has taken since the members last met, as [from, to); none when from == to. Large
  // shares first, then smaller ones: a member whose core is busy with something else takes fewer, and all end together.
  void take(int64_t count, int64_t& from, int64_t& to) {
    from = taken_.load(std::memory_order_relaxed);
    do {
      const int64_t left = from < count ? count - from : 0;
      const int64_t share = left / (2 * size_);
      to = from + (share > 0 ? share : left > 0);
    } while (from < to && !taken_.compare_exchange_weak(from, to, std::memory_order_relaxed));
  }

  // Returns once every member has called it as often.
  void meet() {
    if (size_ == 1) {
      taken_.store(0, std::memory_order_relaxed);
      return;
    }
    const unsigned phase = phase_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1) == size_ - 1) {
      arrived_.store(0, std::memory_order_relaxed);
      taken_.store(0, std::memory_order_relaxed);
      phase_.store(phase + 1);
      if (asleep_.load() > 0) {
        std::lock_guard<std::mutex> guard(mutex_);
        wake_.notify_all();
      }
      return;
    }
    for (int spins = 0; spins < PATIENCE; spins++) {
      if (phase_.load(std::memory_order_acquire) != phase) return;
      relax();
    }
    // A member has lost its core to somebody else: let it have this one.
    std::unique_lock<std::mutex> lock(mutex_);
    asleep_.fetch_add(1);
    wake_.wait(lock, [&] { return phase_.load() != phase; });
    asleep_.fetch_sub(1);
  }

 private:
  static constexpr int PATIENCE = 1000;  // spins, some 10 microseconds

  static void relax() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  void end() {
    {
      std::lock_guard<std::mutex> guard(mutex_);
      ending_ = true;
      number_++;
    }
    wake_.notify_all();
    for (auto& thread : threads_) thread.join();
  }

  void serve(int member) {
    unsigned seen = 0;
    for (;;) {
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return number_ != seen; });
      }
      seen++;
      if (ending_) return;
      (*job_)(member);
      meet();
    }
  }

  const int size_;
  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable wake_;
  const std::function<void(int)>* job_ = nullptr;
  unsigned number_ = 0;  // of jobs given out; with `job_` and `ending_` guarded by the mutex
  bool ending_ = false;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<unsigned> phase_{0};
  std::atomic<int> asleep_{0};  // members that wait for the phase and do not look any more
  alignas(64) std::atomic<int64_t> taken_{0};  // things of the work that lies between two meetings
};

}  // namespace minedraft
