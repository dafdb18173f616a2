// WorkQueue: work in order on a thread of its own; what streams of every kind are made of. The
// first exception of the work stops it: what follows is dropped, but for work that orders streams,
// until synchronize() rethrows the exception.
//
//   WorkQueue queue;
//   queue.push([&] { copy(); });
//   queue.push_ordering([&] { done.set(); });   // runs whatever happened before it
//   queue.synchronize();
//
// push() from any thread. The destructor runs what is queued.
#pragma once

#include <functional>
#include <memory>

namespace hetmem {

class WorkQueue {
 public:
  WorkQueue();
  ~WorkQueue();
  WorkQueue(const WorkQueue&) = delete;
  WorkQueue& operator=(const WorkQueue&) = delete;

  void push(std::function<void()> work);
  void push_ordering(std::function<void()> work);
  // Blocks until the queue is empty and idle; rethrows the first error of its work.
  void synchronize();
  // Rethrows the first error so far, waiting for nothing.
  void check();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace hetmem
