// Tier, Reservation and Buffer: every byte that hetmem uses is inside a Reservation of one tier;
// the sum of a tier's reservations never passes its budget.
//
//   Tier device("device", 1 << 30);
//   Buffer pool(device, bytes, MemoryKind::kActivationsSaved, MemorySpace::kDevice);
//
// Tier is thread-safe, stays where it is and must outlive its reservations and buffers. Reservation
// and Buffer are move-only and release in the destructor.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "core/memory_kind.h"
#include "core/tensor_view.h"
#include "device/memory.h"

namespace hetmem {

class Tier;

class Reservation {
 public:
  Reservation() = default;
  Reservation(Reservation&& other) noexcept;
  Reservation& operator=(Reservation&& other) noexcept;
  ~Reservation();
  int64_t bytes() const { return bytes_; }
  void release();

 private:
  friend class Tier;
  Reservation(Tier* tier, int64_t bytes, MemoryKind kind)
      : tier_(tier), bytes_(bytes), kind_(kind) {}
  Tier* tier_ = nullptr;
  int64_t bytes_ = 0;
  MemoryKind kind_ = MemoryKind::kWorkspace;
};

class Tier {
 public:
  // `memory`: where its Buffers come from (Device::memory(), Device::host_memory()).
  Tier(std::string name, int64_t budget, Memory& memory = system_memory());
  Tier(const Tier&) = delete;
  Tier& operator=(const Tier&) = delete;
  // Throws Error (kDoesNotFit) with what was asked, what is used and the budget.
  Reservation reserve(int64_t bytes, MemoryKind kind);
  const std::string& name() const { return name_; }
  int64_t budget() const;
  // Throws Error (kDoesNotFit) where more is in use, and changes nothing.
  void set_budget(int64_t bytes);
  int64_t used() const;
  // The most that was reserved at once since the start or the last reset_peak(), in all and
  // (separately) by kind.
  int64_t peak() const;
  BytesByKind peak_by_kind() const;
  void reset_peak();
  // What of this tier's live Buffers is really taken: on the CPU bytes of the pages that have been
  // touched, which is what they add to the resident set.
  int64_t touched_bytes() const;

 private:
  friend class Reservation;
  friend class Buffer;
  void release(int64_t bytes, MemoryKind kind);
  void add_allocation(const void* memory, int64_t bytes);
  void remove_allocation(const void* memory);
  std::string name_;
  std::string track_;  // of traces
  Memory& memory_;
  int64_t budget_;
  mutable std::mutex mutex_;
  int64_t used_ = 0;
  int64_t peak_ = 0;
  BytesByKind used_by_kind_{};
  BytesByKind peak_by_kind_{};
  mutable std::mutex allocations_mutex_;
  std::map<const void*, int64_t> allocations_;  // of live Buffers, by address: bytes
};

// Zero-filled memory inside a reservation, from where its tier's memory comes from. Host code reads
// and writes host memory alone: what is on a device is reached by copies and kernels.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Tier& tier, int64_t bytes, MemoryKind kind, MemorySpace space);
  // One block for several kinds of use, reserved under each.
  Buffer(Tier& tier, const BytesByKind& bytes, MemorySpace space);
  Buffer(Buffer&&) noexcept = default;
  Buffer& operator=(Buffer&& other) noexcept;
  void* data() const { return memory_.get(); }
  int64_t bytes() const { return memory_ ? memory_.get_deleter().bytes : 0; }
  MemorySpace space() const { return space_; }
  // As Memory's.
  void populate();
  int64_t touched_bytes() const;
  // A view at a byte offset, 64-byte aligned where the offset is.
  TensorView view(int64_t offset, DType dtype, const Shape& shape) const;

 private:
  struct Release {
    Tier* tier;
    int64_t bytes;
    void operator()(void* memory) const noexcept;
  };
  std::vector<Reservation> reservations_;
  std::unique_ptr<void, Release> memory_{nullptr, Release{nullptr, 0}};
  MemorySpace space_ = MemorySpace::kHost;
};

// Bytes of memory that this process may still take: what the kernel calls available, cut to what
// the limits of its control groups (v1 and v2, from its own up to the root) leave. `root` is the
// folder that holds proc/ and the mounted file systems.
int64_t available_memory(const std::string& root = "/");
// The resident set of this process now, and its high-water mark, in bytes.
int64_t resident_bytes();
int64_t peak_resident_bytes();
// Bytes of the touched pages of a page-aligned range, which must be mapped.
int64_t touched_bytes(const void* memory, int64_t bytes);

}  // namespace hetmem
