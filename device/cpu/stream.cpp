#include "device/stream.h"

#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

#include "core/trace.h"
#include "device/thread_pool.h"

namespace hetmem {

struct Event::State {
  std::mutex mutex;
  std::condition_variable signal;
  bool complete = false;

  void set() {
    const std::lock_guard lock(mutex);
    complete = true;
    signal.notify_all();
  }
  void wait() {
    std::unique_lock lock(mutex);
    signal.wait(lock, [this] { return complete; });
  }
};

bool Event::complete() const {
  if (!state_) return true;
  const std::lock_guard lock(state_->mutex);
  return state_->complete;
}

void Event::synchronize() const {
  if (state_) state_->wait();
}

struct CpuStream::State {
  struct Item {
    std::function<void(ThreadPool&)> work;
    bool runs_after_error = false;  // events complete even when the work before them failed
  };

  State(std::string stream_name, ThreadPool& thread_pool)
      : name(std::move(stream_name)), pool(thread_pool), thread([this] { run(); }) {}

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

  void run() {
    std::unique_lock lock(mutex);
    for (;;) {
      wake.wait(lock, [this] { return stopping || !queue.empty(); });
      if (queue.empty()) return;  // stopping, and everything was done
      Item item = std::move(queue.front());
      queue.pop_front();
      running = true;
      const bool skip = error && !item.runs_after_error;
      lock.unlock();
      std::exception_ptr failure;
      if (!skip) {
        try {
          item.work(pool);
        } catch (...) {
          failure = std::current_exception();
        }
      }
      item.work = nullptr;
      lock.lock();
      if (failure && !error) error = failure;
      running = false;
      if (queue.empty()) idle.notify_all();
    }
  }

  const std::string name;
  ThreadPool& pool;
  std::mutex mutex;
  std::condition_variable wake;
  std::condition_variable idle;
  std::deque<Item> queue;
  bool running = false;
  bool stopping = false;
  std::exception_ptr error;
  std::thread thread;  // last: it starts when everything above is there
};

CpuStream::CpuStream(std::string name, ThreadPool& pool)
    : state_(std::make_unique<State>(std::move(name), pool)) {}
CpuStream::~CpuStream() = default;

const std::string& CpuStream::name() const { return state_->name; }

void CpuStream::enqueue(std::function<void(ThreadPool&)> work) {
  state_->push({std::move(work), false});
}

Event CpuStream::record() {
  auto event = std::make_shared<Event::State>();
  state_->push({[event](ThreadPool&) { event->set(); }, true});
  return Event(event);
}

void CpuStream::wait(const Event& event) {
  if (!event.state_) return;
  state_->push({[other = event.state_](ThreadPool&) { other->wait(); }, true});
}

void CpuStream::copy(void* destination, const void* source, int64_t bytes) {
  enqueue([=, this](ThreadPool&) {
    const trace::Range range(state_->name, "copy");
    std::memcpy(destination, source, static_cast<size_t>(bytes));
  });
}

void CpuStream::synchronize() {
  std::unique_lock lock(state_->mutex);
  state_->idle.wait(lock, [this] { return state_->queue.empty() && !state_->running; });
  if (state_->error) {
    const std::exception_ptr error = std::exchange(state_->error, nullptr);
    std::rethrow_exception(error);
  }
}

}  // namespace hetmem
