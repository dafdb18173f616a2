// HostEvent: the event of a stream whose work runs on the host: set once, by a thread, when what
// was enqueued before it is done. Thread-safe.
//
//   auto event = std::make_shared<HostEvent>();
//   queue.push_ordering([event] { event->set(); });
//   return Event(event);
#pragma once

#include <condition_variable>
#include <mutex>

#include "device/stream.h"

namespace hetmem {

class HostEvent final : public Event::State {
 public:
  bool complete() const override {
    const std::lock_guard lock(mutex_);
    return complete_;
  }
  void synchronize() const override {
    std::unique_lock lock(mutex_);
    signal_.wait(lock, [this] { return complete_; });
  }
  void set() {
    const std::lock_guard lock(mutex_);
    complete_ = true;
    signal_.notify_all();
  }

 private:
  mutable std::mutex mutex_;
  mutable std::condition_variable signal_;
  bool complete_ = false;
};

}  // namespace hetmem
