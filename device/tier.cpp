#include "device/tier.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "core/byte_size.h"
#include "core/error.h"

namespace hetmem {

std::string_view name_of(MemoryKind kind) {
  static constexpr std::array<std::string_view, kMemoryKinds> kNames{
      "weights", "gradients", "optimizer", "activations_saved", "activations_temporary",
      "staging", "workspace"};
  return kNames.at(static_cast<size_t>(kind));
}

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

Tier::Tier(std::string name, int64_t budget) : name_(std::move(name)), budget_(budget) {
  HETMEM_ASSERT(budget >= 0);
}

Reservation Tier::reserve(int64_t bytes, MemoryKind kind) {
  HETMEM_ASSERT(bytes >= 0);
  const std::lock_guard lock(mutex_);
  if (bytes > budget_ - used_) {
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
  return {this, bytes, kind};
}

void Tier::release(int64_t bytes, MemoryKind kind) {
  const std::lock_guard lock(mutex_);
  used_ -= bytes;
  used_by_kind_[static_cast<size_t>(kind)] -= bytes;
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

int64_t total(const BytesByKind& bytes) {
  return std::accumulate(bytes.begin(), bytes.end(), int64_t{0});
}

Buffer::Buffer(Tier& tier, int64_t bytes, MemoryKind kind, MemorySpace space)
    : Buffer(
          tier,
          [&] {
            BytesByKind by_kind{};
            by_kind[static_cast<size_t>(kind)] = bytes;
            return by_kind;
          }(),
          space) {}

Buffer::Buffer(Tier& tier, const BytesByKind& bytes, MemorySpace space) : space_(space) {
  for (int kind = 0; kind < kMemoryKinds; ++kind) {
    const int64_t part = bytes[static_cast<size_t>(kind)];
    if (part > 0) reservations_.push_back(tier.reserve(part, static_cast<MemoryKind>(kind)));
  }
  const int64_t size = total(bytes);
  if (size == 0) return;
  void* memory = mmap(nullptr, static_cast<size_t>(size), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    throw Error(ErrorKind::kDoesNotFit, "the operating system refused " + format_byte_size(size) +
                                            " of " + tier.name() + " memory; lower --" +
                                            tier.name() + "-memory");
  }
  // Fewer TLB misses on the large streams of the optimizer; a hint, so failure does not matter.
  madvise(memory, static_cast<size_t>(size), MADV_HUGEPAGE);
  memory_ = std::unique_ptr<void, Unmap>(memory, Unmap{size});
}

void Buffer::Unmap::operator()(void* memory) const noexcept {
  munmap(memory, static_cast<size_t>(bytes));
}

TensorView Buffer::view(int64_t offset, DType dtype, const Shape& shape) const {
  TensorView view(static_cast<char*>(data()) + offset, dtype, shape, space_);
  HETMEM_ASSERT(offset >= 0 && offset + view.bytes() <= bytes());
  return view;
}

}  // namespace hetmem
