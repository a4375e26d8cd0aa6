// Threads that run one job together, and meet within it. The caller is one of them. Between jobs they sleep: services
// that share cores need them, and a thread that waits by spinning gains nothing that could be measured.
#pragma once

#include <atomic>
#include <condition_variable>
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

  // Returns once every member has called it as often.
  void meet() {
    if (size_ == 1) return;
    const unsigned phase = phase_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
      arrived_.store(0, std::memory_order_relaxed);
      phase_.store(phase + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; phase_.load(std::memory_order_acquire) == phase; spins++) {
      if (spins < PATIENCE) relax();
      else std::this_thread::yield();  // a member has lost its core to somebody: let them all have theirs
    }
  }

 private:
  static constexpr int PATIENCE = 4000;  // spins, some 50 microseconds

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
};

}  // namespace minedraft
