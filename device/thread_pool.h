// ThreadPool: the one pool on which kernels and library GEMMs of the CPU device run. Work is given
// as a fixed number of items whose results do not depend on which thread takes them, so that no bit
// depends on the number of threads. Linked libraries (OpenMP) are held to one thread on every
// thread of the pool.
//
//   ThreadPool pool(2);
//   pool.parallel_for(rows, [&](int64_t row) { ... });
//
// parallel_for may be called from several threads (calls are served one after the other), not from
// inside a body. The first exception of a body is rethrown to the caller.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace hetmem {

class ThreadPool {
 public:
  // `threads` counts the caller's: 1 starts none. 0 means one per processor the process may use.
  explicit ThreadPool(int threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const;
  // Runs body(0) .. body(count - 1), each once, and returns when all are done.
  void parallel_for(int64_t count, const std::function<void(int64_t)>& body);
  // Runs body(begin, end) over [0, count) cut in blocks of `block`.
  void parallel_blocks(int64_t count, int64_t block,
                       const std::function<void(int64_t, int64_t)>& body);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// The processors that this process may run on.
int available_processors();

}  // namespace hetmem
