#include "device/tier.h"

#include <algorithm>
#include <utility>

#include "core/byte_size.h"
#include "core/error.h"
#include "core/fault_plan.h"
#include "core/trace.h"

namespace hetmem {

Reservation::Reservation(Reservation&& other) noexcept
    : tier_(std::exchange(other.tier_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)),
      kind_(other.kind_) {}

Reservation& Reservation::operator=(Reservation&& other) noexcept {
  if (this != &other) {
    release();
    tier_ = std::exchange(other.tier_, nullptr);
    bytes_ = std::exchange(other.bytes_, 0);
    kind_ = other.kind_;
  }
  return *this;
}

Reservation::~Reservation() { release(); }

void Reservation::release() {
  if (tier_ != nullptr) tier_->release(bytes_, kind_);
  tier_ = nullptr;
  bytes_ = 0;
}

Tier::Tier(std::string name, int64_t budget, Memory& memory)
    : name_(std::move(name)), track_(name_ + " memory"), memory_(memory), budget_(budget) {
  HETMEM_ASSERT(budget >= 0);
}

Reservation Tier::reserve(int64_t bytes, MemoryKind kind) {
  HETMEM_ASSERT(bytes >= 0);
  const std::lock_guard lock(mutex_);
  const bool told_to_fail = next_fault(FaultSite::kTierReserve, name_).kind == Fault::Kind::kFail;
  if (told_to_fail || bytes > budget_ - used_) {
    throw Error(ErrorKind::kDoesNotFit, "needs " + format_byte_size(bytes) + " more " + name_ +
                                            " memory for " + std::string(name_of(kind)) + ", but " +
                                            format_byte_size(used_) + " of the budget of " +
                                            format_byte_size(budget_) + " are taken; raise --" +
                                            name_ + "-memory");
  }
  const auto index = static_cast<size_t>(kind);
  used_ += bytes;
  used_by_kind_[index] += bytes;
  peak_ = std::max(peak_, used_);
  peak_by_kind_[index] = std::max(peak_by_kind_[index], used_by_kind_[index]);
  trace::counter(track_, used_);
  return {this, bytes, kind};
}

void Tier::release(int64_t bytes, MemoryKind kind) {
  const std::lock_guard lock(mutex_);
  used_ -= bytes;
  used_by_kind_[static_cast<size_t>(kind)] -= bytes;
  trace::counter(track_, used_);
}

int64_t Tier::budget() const {
  const std::lock_guard lock(mutex_);
  return budget_;
}

void Tier::set_budget(int64_t bytes) {
  HETMEM_ASSERT(bytes >= 0);
  const std::lock_guard lock(mutex_);
  if (used_ > bytes) {
    throw Error(ErrorKind::kDoesNotFit, "a budget of " + format_byte_size(bytes) + " of " + name_ +
                                            " memory is less than the " + format_byte_size(used_) +
                                            " that are taken; raise --" + name_ + "-memory");
  }
  budget_ = bytes;
}

int64_t Tier::used() const {
  const std::lock_guard lock(mutex_);
  return used_;
}

int64_t Tier::peak() const {
  const std::lock_guard lock(mutex_);
  return peak_;
}

BytesByKind Tier::peak_by_kind() const {
  const std::lock_guard lock(mutex_);
  return peak_by_kind_;
}

void Tier::reset_peak() {
  const std::lock_guard lock(mutex_);
  peak_ = used_;
  peak_by_kind_ = used_by_kind_;
}

int64_t Tier::touched_bytes() const {
  const std::lock_guard lock(allocations_mutex_);  // none goes away meanwhile
  int64_t touched = 0;
  for (const auto& [memory, bytes] : allocations_) touched += memory_.touched_bytes(memory, bytes);
  return touched;
}

void Tier::add_allocation(const void* memory, int64_t bytes) {
  const std::lock_guard lock(allocations_mutex_);
  allocations_.emplace(memory, bytes);
}

void Tier::remove_allocation(const void* memory) {
  const std::lock_guard lock(allocations_mutex_);
  allocations_.erase(memory);
}

}  // namespace hetmem
