// Turns: a recursive lock that threads get in the order in which they asked for it, and whose
// holder may let those that wait go before it. Thread-safe.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>

namespace hetmem::python {

class Turns {
 public:
  void lock() {
    std::unique_lock lock(mutex_);
    if (depth_ > 0 && holder_ == std::this_thread::get_id()) {
      ++depth_;
      return;
    }
    take(lock, 1);
  }
  void unlock() {
    const std::lock_guard lock(mutex_);
    if (--depth_ == 0) next();
  }
  // By its holder: whoever waits has a turn first.
  void pass() {
    std::unique_lock lock(mutex_);
    if (last_ == serving_) return;
    const int depth = depth_;
    depth_ = 0;
    next();
    take(lock, depth);
  }

 private:
  void next() {
    ++serving_;
    changed_.notify_all();
  }
  void take(std::unique_lock<std::mutex>& lock, int depth) {
    const uint64_t mine = ++last_;
    changed_.wait(lock, [&] { return serving_ == mine; });
    holder_ = std::this_thread::get_id();
    depth_ = depth;
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::thread::id holder_;
  int depth_ = 0;         // how often its holder has it
  uint64_t last_ = 0;     // that was asked for
  uint64_t serving_ = 1;  // that has its turn, or is the next to come
};

}  // namespace hetmem::python
