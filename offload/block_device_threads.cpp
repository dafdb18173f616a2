// Blocks by threads that call pread and pwrite: one thread for each request that may be under way.
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "core/error.h"
#include "device/cpu/memory_guard.h"
#include "offload/block_call.h"
#include "offload/block_device.h"

namespace hetmem {
namespace {

// The bytes moved, or a negative errno.
int64_t move_once(const BlockFile& file, const BlockRequest& request, int64_t moved) {
  // The kernel reads and writes the staging memory while the call lasts.
  const MemoryGuard::Scope scope(MemoryGuard::Access::kCopy);
  const BlockCall call(file.path(), request, moved);
  if (call.answer) return call.result(*call.answer);
  const auto bytes = static_cast<size_t>(call.bytes);
  const ssize_t now = call.reads ? ::pread(file.descriptor(), call.memory, bytes, call.offset)
                                 : ::pwrite(file.descriptor(), call.memory, bytes, call.offset);
  return call.result(now < 0 ? -errno : now);
}

// The same for all of a request. A call that stops early without an error is asked for the rest
// until nothing moves.
int64_t move_all(const BlockFile& file, const BlockRequest& request) {
  int64_t moved = 0;
  while (moved < request.bytes) {
    const int64_t now = move_once(file, request, moved);
    if (now == -EINTR) continue;
    if (now < 0) return now;
    moved += now;
    if (now == 0 || now % kBlockBytes != 0) break;
  }
  return moved;
}

class ThreadDevice final : public BlockDevice {
 public:
  ThreadDevice(const BlockFile& file, int depth) : file_(file), slots_(static_cast<size_t>(depth)) {
    for (int i = 0; i < depth; ++i) threads_.emplace_back([this] { run(); });
  }

  ~ThreadDevice() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  void start(int index, const BlockRequest& request) override {
    {
      const std::lock_guard lock(mutex_);
      Slot& slot = slots_.at(static_cast<size_t>(index));
      HETMEM_ASSERT(!slot.busy);
      slot = {request, 0, true};
      queue_.push_back(index);
    }
    wake_.notify_one();
  }

  int64_t wait(int index) override {
    std::unique_lock lock(mutex_);
    const Slot& slot = slots_.at(static_cast<size_t>(index));
    done_.wait(lock, [&] { return !slot.busy; });
    return slot.result;
  }

 private:
  struct Slot {
    BlockRequest request{};
    int64_t result = 0;
    bool busy = false;
  };

  void run() {
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
      if (queue_.empty()) return;  // stopping, and everything was done
      Slot& slot = slots_[static_cast<size_t>(queue_.front())];
      queue_.pop_front();
      lock.unlock();
      const int64_t result = move_all(file_, slot.request);
      lock.lock();
      slot.result = result;
      slot.busy = false;
      done_.notify_all();
    }
  }

  const BlockFile& file_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable done_;
  std::vector<Slot> slots_;
  std::deque<int> queue_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;  // last: they start when everything above is there
};

}  // namespace

std::unique_ptr<BlockDevice> make_thread_device(const BlockFile& file, int depth) {
  return std::make_unique<ThreadDevice>(file, depth);
}

}  // namespace hetmem
