#include "device/stream.h"

#include <array>
#include <atomic>
#include <chrono>
#include <utility>

#include "core/trace.h"
#include "device/copy_fault.h"
#include "device/cpu/memory_guard.h"
#include "device/cpu/streaming_copy.h"
#include "device/host_event.h"
#include "device/thread_pool.h"
#include "device/work_queue.h"

namespace hetmem {
namespace {

using Clock = std::chrono::steady_clock;

}  // namespace

struct CpuStream::State {
  State(std::string stream_name, ThreadPool& thread_pool, MemorySpace stream_space)
      : name(std::move(stream_name)), pool(thread_pool), space(stream_space) {}

  void push(MemoryGuard::Access access, std::function<void()> work) {
    queue.push([access, work = std::move(work)] {
      const MemoryGuard::Scope scope(access);
      work();
    });
  }

  // What kernels, or the host's work, may do to memory.
  MemoryGuard::Access work_access() const {
    return space == MemorySpace::kDevice ? MemoryGuard::Access::kKernel
                                         : MemoryGuard::Access::kHost;
  }

  void wait_for(const Event::State& event) {
    if (event.complete()) return;
    const trace::Range range(name, "wait");
    const auto begin = Clock::now();
    event.synchronize();
    const std::chrono::nanoseconds waited = Clock::now() - begin;
    waited_nanoseconds.fetch_add(waited.count());
  }

  void move_bytes(void* destination, const void* source, int64_t bytes, CopyDirection direction) {
    const trace::Range range(name, "copy");
    const Fault fault = next_copy_fault(bytes, direction);
    streaming_copy(destination, source, bytes);
    if (fault.kind == Fault::Kind::kBitFlip) fault.flip_bit(destination, bytes);
    copied[static_cast<size_t>(direction)].fetch_add(bytes);
  }

  const std::string name;
  ThreadPool& pool;
  const MemorySpace space;
  std::array<std::atomic<int64_t>, kCopyDirections> copied{};
  std::atomic<int64_t> waited_nanoseconds{0};
  Clock::time_point timer_start;  // of the thread of the queue
  WorkQueue queue;                // last: its thread uses everything above
};

CpuStream::CpuStream(std::string name, ThreadPool& pool, MemorySpace space)
    : state_(std::make_unique<State>(std::move(name), pool, space)) {}
CpuStream::~CpuStream() = default;

const std::string& CpuStream::name() const { return state_->name; }
MemorySpace CpuStream::space() const { return state_->space; }

void CpuStream::enqueue(std::function<void(ThreadPool&)> work) {
  State* state = state_.get();
  state->push(state->work_access(), [state, work = std::move(work)] { work(state->pool); });
}

Event CpuStream::record() {
  auto event = std::make_shared<HostEvent>();
  state_->queue.push_ordering([event] { event->set(); });
  return Event(event);
}

void CpuStream::wait(const Event& event) {
  if (!event.state()) return;
  State* state = state_.get();
  state->queue.push_ordering([state, other = event.state()] { state->wait_for(*other); });
}

void CpuStream::copy(void* destination, const void* source, int64_t bytes,
                     CopyDirection direction) {
  State* state = state_.get();
  state->push(MemoryGuard::Access::kCopy,
              [=] { state->move_bytes(destination, source, bytes, direction); });
}

int64_t CpuStream::copied_bytes(CopyDirection direction) const {
  return state_->copied.at(static_cast<size_t>(direction)).load();
}

double CpuStream::waited_seconds() const {
  return static_cast<double>(state_->waited_nanoseconds.load()) * 1e-9;
}

void CpuStream::start_timer() {
  State* state = state_.get();
  state->queue.push([state] { state->timer_start = Clock::now(); });
}

void CpuStream::stop_timer(double& seconds) {
  State* state = state_.get();
  state->queue.push([state, &seconds] {
    seconds = std::chrono::duration<double>(Clock::now() - state->timer_start).count();
  });
}

void CpuStream::synchronize() { state_->queue.synchronize(); }
void CpuStream::check() { state_->queue.check(); }

}  // namespace hetmem
