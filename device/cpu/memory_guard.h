// MemoryGuard: a test mode that finds code which touches the wrong memory. The two memories of the
// CPU device are both ordinary memory, so that a kernel which reads the host arena, or a host
// function which reads the device arena, works here and fails on an accelerator. Under the guard
// the work items of all CPU streams run one at a time, and mprotect takes away what each may not
// touch, so that a mistake dies with SIGSEGV:
//
//                                     device Buffers    host Buffers
//   a kernel (device stream)          read, write       none
//   a copy                            read, write       read, write
//   host work, or nothing             none              read, write
//
//   const MemoryGuard::Session guard;          // in a test, before any Buffer and Stream
//   HETMEM_MEMORY_GUARD=1 hetmem train ...     // or for a whole program, read once at first use
//
// Only Buffers made while the guard is on are guarded; the memory of containers is not. Protection
// belongs to the process: a thread without a stream that uses a host Buffer while streams may be
// busy takes a Scope. A work item, or the holder of a Scope, must not block on another stream's
// work: it would wait for what it keeps from running. Stream::wait() holds nothing. Off by default,
// at the cost of one relaxed load. Thread-safe.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>

#include "core/tensor_view.h"

namespace hetmem {

class MemoryGuard {
 public:
  enum class Access : uint8_t { kHost, kKernel, kCopy };

  // Both are to be called while no stream works.
  static void enable();
  static void disable();
  static bool enabled() {
    const Mode now = mode_.load(std::memory_order_relaxed);
    return now == Mode::kUnread ? read_environment() : now == Mode::kOn;
  }

  // On from construction to destruction; nothing where the environment has it on for good.
  class Session {
   public:
    Session() : switches_(!enabled()) {
      if (switches_) enable();
    }
    ~Session() {
      if (switches_) disable();
    }
    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;

   private:
    bool switches_;
  };

  // What this thread does until the end of the scope has `access`; no other scope of the process
  // runs meanwhile. May be nested on one thread: the inner one counts. Nothing where the guard is
  // off.
  class Scope {
   public:
    explicit Scope(Access access);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    std::unique_lock<std::recursive_mutex> turn_;
    Access outer_ = Access::kHost;
  };

  // For Buffer: takes a mapping into the guard, and forgets it (if it is known).
  static void add(void* memory, int64_t bytes, MemorySpace space);
  static void remove(void* memory);

 private:
  enum class Mode : uint8_t { kUnread, kOff, kOn };
  static bool read_environment();
  static std::atomic<Mode> mode_;
};

}  // namespace hetmem
