#include "device/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "core/error.h"

namespace hetmem {

int available_processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1U, std::thread::hardware_concurrency());
}

namespace {

// Whether the condition came true while this thread spun for a moment. A sleep costs as much, and a
// thread that spins for longer takes the processor from the one that it waits for, where there are
// more threads than processors.
template <typename Condition>
bool comes_soon(const Condition& condition) {
  constexpr std::chrono::microseconds kMoment(25);
  constexpr int kLooks = 16;
  const auto end = std::chrono::steady_clock::now() + kMoment;
  do {
    for (int look = 0; look < kLooks; ++look) {
      if (condition()) return true;
      __builtin_ia32_pause();
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

}  // namespace

// One job at a time: a counter hands out its items to the caller and to the workers that are awake.
// Workers spin for a moment after a job, because the next one of a training step follows within
// microseconds, and sleep when none comes.
struct ThreadPool::State {
  struct Job {
    const std::function<void(int64_t)>* body = nullptr;
    int64_t count = 0;
    std::atomic<int64_t> next{0};
    std::atomic<bool> failed{false};
    std::exception_ptr error;  // written by whoever sets `failed` first
    std::mutex error_mutex;
  };

  explicit State(int thread_count) : threads(thread_count) {
    for (int i = 1; i < threads; ++i) workers.emplace_back([this] { work(); });
  }

  ~State() {
    {
      const std::lock_guard lock(mutex);
      stopping = true;
      generation.fetch_add(1);
    }
    wake.notify_all();
    for (std::thread& worker : workers) worker.join();
  }

  static void run_items(Job& job) {
    for (;;) {
      const int64_t item = job.next.fetch_add(1, std::memory_order_relaxed);
      if (item >= job.count) return;
      if (job.failed.load(std::memory_order_relaxed)) continue;
      try {
        (*job.body)(item);
      } catch (...) {
        const std::lock_guard lock(job.error_mutex);
        if (!job.failed.exchange(true)) job.error = std::current_exception();
      }
    }
  }

  // Waits for a generation other than `seen`; returns it.
  uint64_t await_generation(uint64_t seen) {
    const auto is_new = [&] { return generation.load(std::memory_order_acquire) != seen; };
    if (!comes_soon(is_new)) {
      std::unique_lock lock(mutex);
      wake.wait(lock, is_new);
    }
    return generation.load(std::memory_order_acquire);
  }

  void work() {
    uint64_t seen = 0;
    for (;;) {
      seen = await_generation(seen);
      Job* mine = nullptr;
      {
        const std::lock_guard lock(mutex);
        if (stopping) return;
        mine = job;
        if (mine != nullptr) active.fetch_add(1, std::memory_order_relaxed);
      }
      if (mine == nullptr) continue;  // it was over before this worker woke up
      run_items(*mine);
      if (active.fetch_sub(1, std::memory_order_release) == 1) active.notify_one();
    }
  }

  void run(int64_t count, const std::function<void(int64_t)>& body) {
    const std::lock_guard callers(caller_mutex);
    Job current;
    current.body = &body;
    current.count = count;
    if (threads > 1 && count > 1) {
      publish(&current);
      wake.notify_all();
      run_items(current);
      publish(nullptr);
      await_workers();
    } else {
      run_items(current);
    }
    if (current.error) std::rethrow_exception(current.error);
  }

  // Workers that entered have to leave the job before it goes out of scope.
  void await_workers() {
    if (comes_soon([this] { return active.load(std::memory_order_acquire) == 0; })) return;
    for (int now = active.load(std::memory_order_acquire); now != 0;
         now = active.load(std::memory_order_acquire)) {
      active.wait(now, std::memory_order_acquire);
    }
  }

  void publish(Job* next) {
    const std::lock_guard lock(mutex);
    job = next;
    if (next != nullptr) generation.fetch_add(1, std::memory_order_release);
  }

  const int threads;
  std::vector<std::thread> workers;
  std::mutex caller_mutex;  // one parallel_for at a time
  std::mutex mutex;
  std::condition_variable wake;
  std::atomic<uint64_t> generation{0};
  std::atomic<int> active{0};  // workers inside the job
  bool stopping = false;       // guarded by mutex
  Job* job = nullptr;          // guarded by mutex
};

ThreadPool::ThreadPool(int threads) {
  if (threads < 0 || threads > 1024) {
    throw Error(ErrorKind::kBadInput,
                "--threads " + std::to_string(threads) + " is not between 0 (all) and 1024");
  }
  state_ = std::make_unique<State>(threads == 0 ? available_processors() : threads);
}
ThreadPool::~ThreadPool() = default;

int ThreadPool::threads() const { return state_->threads; }

void ThreadPool::parallel_for(int64_t count, const std::function<void(int64_t)>& body) {
  if (count > 0) state_->run(count, body);
}

void ThreadPool::parallel_blocks(int64_t count, int64_t block,
                                 const std::function<void(int64_t, int64_t)>& body) {
  HETMEM_ASSERT(block > 0);
  parallel_for((count + block - 1) / block,
               [&](int64_t index) { body(index * block, std::min(count, (index + 1) * block)); });
}

}  // namespace hetmem
