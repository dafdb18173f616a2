#include "device/stream.h"

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "core/trace.h"
#include "device/cpu/memory_guard.h"
#include "device/cpu/streaming_copy.h"
#include "device/thread_pool.h"

namespace hetmem {

struct Event::State {
  std::mutex mutex;
  std::condition_variable signal;
  bool complete = false;

  bool is_complete() {
    const std::lock_guard lock(mutex);
    return complete;
  }
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

bool Event::complete() const { return !state_ || state_->is_complete(); }

void Event::synchronize() const {
  if (state_) state_->wait();
}

struct CpuStream::State {
  struct Item {
    std::function<void(ThreadPool&)> work;
    // What it does to memory. None: it orders streams, which goes on when the work before it
    // failed.
    std::optional<MemoryGuard::Access> access;
  };

  State(std::string stream_name, ThreadPool& thread_pool, MemorySpace stream_space)
      : name(std::move(stream_name)),
        pool(thread_pool),
        space(stream_space),
        thread([this] { run(); }) {}

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
      const bool skip = error && item.access;
      lock.unlock();
      std::exception_ptr failure;
      try {
        if (!skip) execute(item);
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

  void execute(const Item& item) {
    if (!item.access) return item.work(pool);
    const MemoryGuard::Scope scope(*item.access);
    item.work(pool);
  }

  void wait_for(Event::State& event) {
    if (event.is_complete()) return;
    const trace::Range range(name, "wait");
    const auto begin = std::chrono::steady_clock::now();
    event.wait();
    const std::chrono::nanoseconds waited = std::chrono::steady_clock::now() - begin;
    waited_nanoseconds.fetch_add(waited.count());
  }

  void move_bytes(void* destination, const void* source, int64_t bytes, CopyDirection direction) {
    const trace::Range range(name, "copy");
    streaming_copy(destination, source, bytes);
    copied[static_cast<size_t>(direction)].fetch_add(bytes);
  }

  const std::string name;
  ThreadPool& pool;
  const MemorySpace space;
  std::array<std::atomic<int64_t>, kCopyDirections> copied{};
  std::atomic<int64_t> waited_nanoseconds{0};
  std::mutex mutex;
  std::condition_variable wake;
  std::condition_variable idle;
  std::deque<Item> queue;
  bool running = false;
  bool stopping = false;
  std::exception_ptr error;
  std::thread thread;  // last: it starts when everything above is there
};

CpuStream::CpuStream(std::string name, ThreadPool& pool, MemorySpace space)
    : state_(std::make_unique<State>(std::move(name), pool, space)) {}
CpuStream::~CpuStream() = default;

const std::string& CpuStream::name() const { return state_->name; }
MemorySpace CpuStream::space() const { return state_->space; }

void CpuStream::enqueue(std::function<void(ThreadPool&)> work) {
  const bool kernel = state_->space == MemorySpace::kDevice;
  state_->push(
      {std::move(work), kernel ? MemoryGuard::Access::kKernel : MemoryGuard::Access::kHost});
}

Event CpuStream::record() {
  auto event = std::make_shared<Event::State>();
  state_->push({[event](ThreadPool&) { event->set(); }, {}});
  return Event(event);
}

void CpuStream::wait(const Event& event) {
  if (!event.state_) return;
  State* state = state_.get();
  state->push({[state, other = event.state_](ThreadPool&) { state->wait_for(*other); }, {}});
}

void CpuStream::copy(void* destination, const void* source, int64_t bytes,
                     CopyDirection direction) {
  State* state = state_.get();
  state->push({[=](ThreadPool&) { state->move_bytes(destination, source, bytes, direction); },
               MemoryGuard::Access::kCopy});
}

int64_t CpuStream::copied_bytes(CopyDirection direction) const {
  return state_->copied.at(static_cast<size_t>(direction)).load();
}

double CpuStream::waited_seconds() const {
  return static_cast<double>(state_->waited_nanoseconds.load()) * 1e-9;
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
