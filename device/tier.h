// Tier, Reservation and Buffer: every byte that hetmem uses is inside a Reservation of one tier;
// the sum of a tier's reservations never passes its budget.
//
//   Tier device("device", 1 << 30);
//   Buffer pool(device, bytes, MemoryKind::kActivationsSaved, MemorySpace::kDevice);
//
// Tier is thread-safe and must outlive its reservations. Reservation and Buffer are move-only and
// release in the destructor.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor_view.h"

namespace hetmem {

// What bytes are used for; the tags of reports and plans.
enum class MemoryKind : uint8_t {
  kWeights,
  kGradients,
  kOptimizer,
  kActivationsSaved,
  kActivationsTemporary,
  kStaging,
  kWorkspace,
};
constexpr int kMemoryKinds = static_cast<int>(MemoryKind::kWorkspace) + 1;
// "weights", "activations_saved", ...
std::string_view name_of(MemoryKind kind);

// Bytes by kind.
using BytesByKind = std::array<int64_t, kMemoryKinds>;
int64_t total(const BytesByKind& bytes);

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
  Tier(std::string name, int64_t budget);
  // Throws Error (kDoesNotFit) with what was asked, what is used and the budget.
  Reservation reserve(int64_t bytes, MemoryKind kind);
  const std::string& name() const { return name_; }
  int64_t budget() const { return budget_; }
  int64_t used() const;
  // The most that was ever reserved at once, in all and (separately) by kind.
  int64_t peak() const;
  BytesByKind peak_by_kind() const;

 private:
  friend class Reservation;
  void release(int64_t bytes, MemoryKind kind);
  std::string name_;
  int64_t budget_;
  mutable std::mutex mutex_;
  int64_t used_ = 0;
  int64_t peak_ = 0;
  BytesByKind used_by_kind_{};
  BytesByKind peak_by_kind_{};
};

// Page-aligned memory inside a reservation, zero-filled by the operating system on first touch.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Tier& tier, int64_t bytes, MemoryKind kind, MemorySpace space);
  // One block for several kinds of use, reserved under each.
  Buffer(Tier& tier, const BytesByKind& bytes, MemorySpace space);
  Buffer(Buffer&&) noexcept = default;
  Buffer& operator=(Buffer&&) noexcept = default;
  void* data() const { return memory_.get(); }
  int64_t bytes() const { return memory_.get_deleter().bytes; }
  // A view at a byte offset, 64-byte aligned where the offset is.
  TensorView view(int64_t offset, DType dtype, const Shape& shape) const;

 private:
  struct Unmap {
    int64_t bytes;
    void operator()(void* memory) const noexcept;
  };
  std::vector<Reservation> reservations_;
  std::unique_ptr<void, Unmap> memory_{nullptr, Unmap{0}};
  MemorySpace space_ = MemorySpace::kHost;
};

// Bytes of memory that this process may still take: what the kernel calls available, cut to the
// limits of its control group (v1 and v2).
int64_t available_memory();
// The resident set of this process now, and its high-water mark, in bytes.
int64_t resident_bytes();
int64_t peak_resident_bytes();

}  // namespace hetmem
