// Stream and Event: ordered asynchronous work on a device. Work on one stream runs in order; work
// on two streams is ordered by events only. On the CPU a stream is a real queue with a thread of
// its own, so that a missing event is a real race.
//
//   Event done = copies.record();
//   compute.wait(done);            // returns at once; the stream waits, not the caller
//
// Move-only; destructors wait for the work under way and never throw. A stream may be fed from one
// thread at a time; events may be waited for from any. The first exception of the work of a stream
// stops it and is rethrown by synchronize().
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "core/tensor_view.h"

namespace hetmem {

class ThreadPool;

class Event {
 public:
  // What a kind of stream records. Thread-safe.
  struct State {
    State() = default;
    virtual ~State() = default;
    State(const State&) = delete;
    State& operator=(const State&) = delete;
    virtual bool complete() const = 0;
    virtual void synchronize() const = 0;
  };

  Event() = default;  // already complete
  explicit Event(std::shared_ptr<State> state) : state_(std::move(state)) {}
  Event(Event&&) noexcept = default;
  Event& operator=(Event&&) noexcept = default;
  bool complete() const { return !state_ || state_->complete(); }
  // Blocks the caller until the work recorded before the event is done.
  void synchronize() const {
    if (state_) state_->synchronize();
  }
  // For streams: null where there is nothing to wait for.
  const std::shared_ptr<State>& state() const { return state_; }

 private:
  std::shared_ptr<State> state_;
};

enum class DeviceKind : uint8_t { kCpu, kCuda };

enum class CopyDirection : uint8_t { kToDevice, kToHost, kWithin };
constexpr int kCopyDirections = 3;

class Stream {
 public:
  virtual ~Stream() = default;
  virtual DeviceKind kind() const = 0;
  // Whose memory its kernels may touch: kHost for a host stream.
  virtual MemorySpace space() const = 0;
  virtual Event record() = 0;
  virtual void wait(const Event& event) = 0;
  // Blocks until the stream is idle; rethrows the first error of its work.
  virtual void synchronize() = 0;
  // Rethrows the first error of its work so far, waiting for nothing.
  virtual void check() = 0;
  // Enqueues a copy; `direction` says which spaces the pointers are in, and what its bytes count
  // as.
  virtual void copy(void* destination, const void* source, int64_t bytes,
                    CopyDirection direction) = 0;
  // Bytes that the copies of this stream have really moved so far.
  virtual int64_t copied_bytes(CopyDirection direction) const = 0;
  // Seconds for which the stream stood still in wait() because the event was not complete yet.
  virtual double waited_seconds() const = 0;
  // Seconds that the work enqueued between the two calls takes, written by the next synchronize()
  // at the latest. One timer a stream at a time.
  virtual void start_timer() = 0;
  virtual void stop_timer(double& seconds) = 0;
};

// A queue with a thread of its own, on which copies run; kernels get the pool.
class CpuStream final : public Stream {
 public:
  CpuStream(std::string name, ThreadPool& pool, MemorySpace space = MemorySpace::kDevice);
  ~CpuStream() override;
  DeviceKind kind() const override { return DeviceKind::kCpu; }
  MemorySpace space() const override;
  Event record() override;
  void wait(const Event& event) override;
  void synchronize() override;
  void check() override;
  void copy(void* destination, const void* source, int64_t bytes, CopyDirection direction) override;
  int64_t copied_bytes(CopyDirection direction) const override;
  double waited_seconds() const override;
  void start_timer() override;
  void stop_timer(double& seconds) override;
  // A kernel on a device stream, host work on a host stream.
  void enqueue(std::function<void(ThreadPool&)> work);
  const std::string& name() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace hetmem
