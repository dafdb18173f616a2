#include <utility>

#include "core/error.h"
#include "device/memory.h"
#include "device/tier.h"

namespace hetmem {

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
  memory_ = std::unique_ptr<void, Release>(tier.memory_.allocate(size, space, tier.name()),
                                           Release{&tier, size});
  tier.add_allocation(memory_.get(), size);
}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  memory_ = std::move(other.memory_);  // frees what was here before it gives up the reservation
  reservations_ = std::move(other.reservations_);
  space_ = other.space_;
  return *this;
}

void Buffer::Release::operator()(void* memory) const noexcept {
  tier->remove_allocation(memory);
  tier->memory_.release(memory, bytes);
}

void Buffer::populate() {
  if (memory_) memory_.get_deleter().tier->memory_.populate(data(), bytes());
}

int64_t Buffer::touched_bytes() const {
  return memory_ ? memory_.get_deleter().tier->memory_.touched_bytes(data(), bytes()) : 0;
}

TensorView Buffer::view(int64_t offset, DType dtype, const Shape& shape) const {
  TensorView view(static_cast<char*>(data()) + offset, dtype, shape, space_);
  HETMEM_ASSERT(offset >= 0 && offset + view.bytes() <= bytes());
  return view;
}

}  // namespace hetmem
