#include "device/work_queue.h"

#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

namespace hetmem {

struct WorkQueue::State {
  struct Item {
    std::function<void()> work;
    bool ordering;
  };

  State() : thread([this] { run(); }) {}

  ~State() {
    {
      const std::lock_guard lock(mutex);
      stopping = true;
    }
    wake.notify_all();
    thread.join();
  }

  void push(Item item) {
    {
      const std::lock_guard lock(mutex);
      queue.push_back(std::move(item));
    }
    wake.notify_one();
  }

  // With the mutex held.
  void rethrow() {
    if (error) std::rethrow_exception(std::exchange(error, nullptr));
  }

  void run() {
    std::unique_lock lock(mutex);
    for (;;) {
      wake.wait(lock, [this] { return stopping || !queue.empty(); });
      if (queue.empty()) return;  // stopping, and everything was done
      Item item = std::move(queue.front());
      queue.pop_front();
      running = true;
      const bool skip = error && !item.ordering;
      lock.unlock();
      std::exception_ptr failure;
      try {
        if (!skip) item.work();
      } catch (...) {
        failure = std::current_exception();
      }
      item.work = nullptr;
      lock.lock();
      if (failure && !error) error = failure;
      running = false;
      if (queue.empty()) idle.notify_all();
    }
  }

  std::mutex mutex;
  std::condition_variable wake;
  std::condition_variable idle;
  std::deque<Item> queue;
  bool running = false;
  bool stopping = false;
  std::exception_ptr error;
  std::thread thread;  // last: it starts when everything above is there
};

WorkQueue::WorkQueue() : state_(std::make_unique<State>()) {}
WorkQueue::~WorkQueue() = default;

void WorkQueue::push(std::function<void()> work) { state_->push({std::move(work), false}); }
void WorkQueue::push_ordering(std::function<void()> work) { state_->push({std::move(work), true}); }

void WorkQueue::check() {
  const std::lock_guard lock(state_->mutex);
  state_->rethrow();
}

void WorkQueue::synchronize() {
  std::unique_lock lock(state_->mutex);
  state_->idle.wait(lock, [this] { return state_->queue.empty() && !state_->running; });
  state_->rethrow();
}

}  // namespace hetmem
