#include "device/cuda/cuda_stream.h"

#include <array>
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/trace.h"
#include "device/copy_fault.h"
#include "device/work_queue.h"

namespace hetmem {
namespace {

// Owns a cudaEvent_t of the current GPU. Waiting for it puts the thread to sleep: the processors
// have work to do.
class Mark {
 public:
  explicit Mark(bool timing) {
    check_cuda(cudaEventCreateWithFlags(
                   &event_, cudaEventBlockingSync | (timing ? 0U : cudaEventDisableTiming)),
               "create an event");
  }
  ~Mark() { cudaEventDestroy(event_); }
  Mark(const Mark&) = delete;
  Mark& operator=(const Mark&) = delete;
  cudaEvent_t get() const { return event_; }
  void record(cudaStream_t stream) const {
    check_cuda(cudaEventRecord(event_, stream), "record an event");
  }
  void synchronize() const { check_cuda(cudaEventSynchronize(event_), "wait for an event"); }

 private:
  cudaEvent_t event_ = nullptr;
};

// An event is there before the thread of its stream has come to it: it is recorded first, then
// complete. Where CUDA refused to record it, nothing is waited for: the error is its stream's.
class CudaEvent final : public Event::State {
 public:
  bool complete() const override {
    {
      const std::lock_guard lock(mutex_);
      if (!recorded_) return false;
    }
    if (!mark_) return true;
    const cudaError_t code = cudaEventQuery(mark_->get());
    if (code == cudaErrorNotReady) return false;
    check_cuda(code, "ask for an event");
    return true;
  }
  void synchronize() const override {
    if (const Mark* mark = recorded()) mark->synchronize();
  }
  // Waits until it is recorded; null where it could not be.
  const Mark* recorded() const {
    std::unique_lock lock(mutex_);
    signal_.wait(lock, [this] { return recorded_; });
    return mark_.get();
  }
  void set(std::unique_ptr<Mark> mark) {
    const std::lock_guard lock(mutex_);
    mark_ = std::move(mark);
    recorded_ = true;
    signal_.notify_all();
  }

 private:
  mutable std::mutex mutex_;
  mutable std::condition_variable signal_;
  std::unique_ptr<Mark> mark_;  // written once, before recorded_
  bool recorded_ = false;
};

double seconds_between(const Mark& begin, const Mark& end) {
  float milliseconds = 0;
  check_cuda(cudaEventElapsedTime(&milliseconds, begin.get(), end.get()), "take a time");
  return static_cast<double>(milliseconds) * 1e-3;
}

cudaMemcpyKind kind_of(CopyDirection direction) {
  switch (direction) {
    case CopyDirection::kToDevice:
      return cudaMemcpyHostToDevice;
    case CopyDirection::kToHost:
      return cudaMemcpyDeviceToHost;
    case CopyDirection::kWithin:
      break;
  }
  return cudaMemcpyDefault;  // of either memory
}

ErrorKind error_kind_of(cudaError_t code) {
  switch (code) {
    case cudaErrorMemoryAllocation:
      return ErrorKind::kDoesNotFit;
    case cudaErrorInitializationError:
    case cudaErrorInsufficientDriver:
    case cudaErrorDevicesUnavailable:  // another process has it to itself
    case cudaErrorNoDevice:
    case cudaErrorInvalidDevice:
    case cudaErrorDeviceNotLicensed:
    case cudaErrorDeviceUninitialized:
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorSystemNotReady:
    case cudaErrorSystemDriverMismatch:
    case cudaErrorCompatNotSupportedOnDevice:
      return ErrorKind::kBadInput;
    case cudaErrorECCUncorrectable:
    case cudaErrorContained:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorHardwareStackError:
    case cudaErrorOperatingSystem:
    case cudaErrorExternalDevice:
    case cudaErrorUnknown:  // of a GPU that has left the bus, too
      return ErrorKind::kStorage;
    default:
      return ErrorKind::kInternal;
  }
}

}  // namespace

void check_cuda(cudaError_t code, const std::string& asked) {
  if (code == cudaSuccess) return;
  cudaGetLastError();  // it is told once, unless the device cannot go on
  const ErrorKind kind = error_kind_of(code);
  throw Error(kind, std::string("CUDA could not ") + asked + ": " + cudaGetErrorName(code) + " (" +
                        cudaGetErrorString(code) + "); " +
                        (kind == ErrorKind::kDoesNotFit
                             ? "lower --device-memory, which leaves more to CUDA itself"
                             : "look at nvidia-smi and dmesg, or give --device cpu"));
}

struct CudaStream::State {
  // What takes time and is known when the device has come there.
  struct Span {
    std::unique_ptr<Mark> begin;
    std::unique_ptr<Mark> end;
    double* seconds;  // null: time waited
  };

  State(std::string stream_name, int device_index)
      : name(std::move(stream_name)), index(device_index) {
    check_cuda(cudaSetDevice(index), "use GPU " + std::to_string(index));
    // It waits for no other stream but by events.
    check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "create a stream");
    queue.push_ordering(
        [this] { check_cuda(cudaSetDevice(index), "use GPU " + std::to_string(index)); });
  }

  ~State() {
    try {
      finish();
      queue.synchronize();
    } catch (...) {  // nobody asked for what this work did
    }
    cudaStreamDestroy(stream);
  }

  std::unique_ptr<Mark> mark(bool timing) const {
    auto made = std::make_unique<Mark>(timing);
    made->record(stream);
    return made;
  }

  // The event is told even where CUDA refuses, so that others do not wait for ever.
  void record(CudaEvent& event) const {
    std::unique_ptr<Mark> made;
    try {
      made = mark(false);
    } catch (...) {
      event.set(nullptr);
      throw;
    }
    event.set(std::move(made));
  }

  void wait_for(const Event::State& event) {
    if (event.complete()) return;
    const trace::Range range(name, "wait");
    Span span{mark(true), nullptr, nullptr};
    if (const auto* other = dynamic_cast<const CudaEvent*>(&event)) {
      if (const Mark* recorded = other->recorded()) {
        check_cuda(cudaStreamWaitEvent(stream, recorded->get(), 0), "wait for another stream");
      }
    } else {
      event.synchronize();
    }
    span.end = mark(true);
    spans.push_back(std::move(span));
  }

  void move_bytes(void* destination, const void* source, int64_t bytes, CopyDirection direction) {
    const trace::Range range(name, "copy");
    next_copy_fault(bytes, direction);
    check_cuda(cudaMemcpyAsync(destination, source, static_cast<size_t>(bytes), kind_of(direction),
                               stream),
               "copy " + std::to_string(bytes) + " bytes on the stream \"" + name + "\"");
    copied[static_cast<size_t>(direction)].fetch_add(bytes);
  }

  // Enqueues the wait for the device, after which times are known.
  void finish() {
    queue.push_ordering([this] {
      const std::vector<Span> finished = std::exchange(spans, {});
      mark(false)->synchronize();
      int64_t waited = 0;
      for (const Span& span : finished) {
        const double seconds = seconds_between(*span.begin, *span.end);
        if (span.seconds != nullptr) {
          *span.seconds = seconds;
        } else {
          waited += static_cast<int64_t>(seconds * 1e9);
        }
      }
      waited_nanoseconds.fetch_add(waited);
    });
  }

  const std::string name;
  const int index;
  cudaStream_t stream = nullptr;
  std::array<std::atomic<int64_t>, kCopyDirections> copied{};
  std::atomic<int64_t> waited_nanoseconds{0};
  // Of the thread of the queue.
  std::unique_ptr<Mark> timer;
  std::vector<Span> spans;
  WorkQueue queue;  // last: its thread uses everything above
};

CudaStream::CudaStream(std::string name, int device_index)
    : state_(std::make_unique<State>(std::move(name), device_index)) {}
CudaStream::~CudaStream() = default;

const std::string& CudaStream::name() const { return state_->name; }
int CudaStream::device_index() const { return state_->index; }

void CudaStream::enqueue(std::function<void(cudaStream_t)> work) {
  State* state = state_.get();
  state->queue.push([state, work = std::move(work)] {
    work(state->stream);
    check_cuda(cudaGetLastError(), "run what was enqueued on the stream \"" + state->name + "\"");
  });
}

Event CudaStream::record() {
  State* state = state_.get();
  auto event = std::make_shared<CudaEvent>();
  state->queue.push_ordering([state, event] { state->record(*event); });
  return Event(event);
}

void CudaStream::wait(const Event& event) {
  if (!event.state()) return;
  State* state = state_.get();
  state->queue.push_ordering([state, other = event.state()] { state->wait_for(*other); });
}

void CudaStream::copy(void* destination, const void* source, int64_t bytes,
                      CopyDirection direction) {
  State* state = state_.get();
  state->queue.push([=] { state->move_bytes(destination, source, bytes, direction); });
}

int64_t CudaStream::copied_bytes(CopyDirection direction) const {
  return state_->copied.at(static_cast<size_t>(direction)).load();
}

double CudaStream::waited_seconds() const {
  return static_cast<double>(state_->waited_nanoseconds.load()) * 1e-9;
}

void CudaStream::start_timer() {
  State* state = state_.get();
  state->queue.push([state] { state->timer = state->mark(true); });
}

void CudaStream::stop_timer(double& seconds) {
  State* state = state_.get();
  state->queue.push([state, &seconds] {
    state->spans.push_back({std::move(state->timer), state->mark(true), &seconds});
  });
}

void CudaStream::check() { state_->queue.check(); }

void CudaStream::synchronize() {
  state_->finish();
  state_->queue.synchronize();
}

}  // namespace hetmem
