// Where the memory of a tier comes from. Stays where it is and outlives the tiers that use it;
// thread-safe.
#pragma once

#include <cstdint>
#include <string>

#include "core/tensor_view.h"

namespace hetmem {

class Memory {
 public:
  Memory() = default;
  virtual ~Memory() = default;
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  // Zero-filled, aligned to 256 bytes at least. `space` is what it is used as: the CPU device has
  // both spaces in one memory. Throws Error (kDoesNotFit) naming --<tier>-memory.
  virtual void* allocate(int64_t bytes, MemorySpace space, const std::string& tier) = 0;
  virtual void release(void* memory, int64_t bytes) noexcept = 0;
  // Takes all of it from the operating system now, so that the first use does not wait for pages.
  // Contents stay; to be called before others use it.
  virtual void populate(void* memory, int64_t bytes) = 0;
  // What of it is really taken.
  virtual int64_t touched_bytes(const void* memory, int64_t bytes) const = 0;
};

// Anonymous mappings, whose pages come with their first use. From 2 MiB on they are aligned to 2
// MiB and ask for huge pages, which never reach past the end. The MemoryGuard guards them.
Memory& system_memory();

}  // namespace hetmem
