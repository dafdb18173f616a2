// Buffer on the CPU device: an anonymous mapping, for either memory space.
#include <sys/mman.h>
#include <unistd.h>

#include <utility>

#include "core/byte_size.h"
#include "core/error.h"
#include "device/cpu/memory_guard.h"
#include "device/tier.h"

namespace hetmem {
namespace {

constexpr int64_t kHugePage = int64_t{2} << 20;

int64_t round_up(int64_t bytes, int64_t unit) { return (bytes + unit - 1) / unit * unit; }

int64_t page_bytes() {
  static const int64_t bytes = sysconf(_SC_PAGESIZE);
  return bytes;
}

char* map_memory(int64_t bytes) {
  void* memory = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return memory == MAP_FAILED ? nullptr : static_cast<char*>(memory);
}

void unmap_memory(char* memory, int64_t bytes) {
  if (bytes > 0) munmap(memory, static_cast<size_t>(bytes));
}

// Whole pages from an address that is a multiple of `alignment`; null where the system refuses.
char* map_aligned(int64_t bytes, int64_t alignment) {
  const int64_t slack = alignment - page_bytes();
  char* memory = map_memory(bytes + slack);
  if (memory == nullptr || slack == 0) return memory;
  const auto address = static_cast<int64_t>(reinterpret_cast<uintptr_t>(memory));
  const int64_t before = round_up(address, alignment) - address;
  unmap_memory(memory, before);
  unmap_memory(memory + before + bytes, slack - before);
  return memory + before;
}

// Huge pages make fewer TLB misses on the large streams of the optimizer. The rest after the last
// whole one refuses them: mappings side by side are one to the kernel, and a huge page across their
// border would be memory that neither has reserved. Hints, so failure does not matter.
void advise_huge_pages(char* memory, int64_t bytes) {
  const int64_t whole = bytes / kHugePage * kHugePage;
  if (whole > 0) madvise(memory, static_cast<size_t>(whole), MADV_HUGEPAGE);
  if (bytes > whole) madvise(memory + whole, static_cast<size_t>(bytes - whole), MADV_NOHUGEPAGE);
}

}  // namespace

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
  const int64_t mapped = round_up(size, page_bytes());
  char* memory = map_aligned(mapped, size >= kHugePage ? kHugePage : page_bytes());
  if (memory == nullptr) {
    throw Error(ErrorKind::kDoesNotFit, "the operating system refused " + format_byte_size(size) +
                                            " of " + tier.name() + " memory; lower --" +
                                            tier.name() + "-memory");
  }
  memory_ = std::unique_ptr<void, Unmap>(memory, Unmap{&tier, size});
  advise_huge_pages(memory, mapped);
  tier.add_mapping(memory, size);
  MemoryGuard::add(memory, mapped, space);
}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  memory_ = std::move(other.memory_);  // unmaps what was here before it gives up the reservation
  reservations_ = std::move(other.reservations_);
  space_ = other.space_;
  return *this;
}

void Buffer::Unmap::operator()(void* memory) const noexcept {
  MemoryGuard::remove(memory);
  tier->remove_mapping(memory);
  unmap_memory(static_cast<char*>(memory), round_up(bytes, page_bytes()));
}

void Buffer::populate() {
  if (!memory_) return;
  const MemoryGuard::Scope scope(MemoryGuard::Access::kCopy);
#ifdef MADV_POPULATE_WRITE  // Linux 5.14
  if (madvise(data(), static_cast<size_t>(round_up(bytes(), page_bytes())), MADV_POPULATE_WRITE) ==
      0) {
    return;
  }
#endif
  volatile char* memory = static_cast<char*>(data());
  for (int64_t at = 0; at < bytes(); at += page_bytes()) memory[at] = memory[at];
}

int64_t Buffer::touched_bytes() const {
  return memory_ ? hetmem::touched_bytes(data(), bytes()) : 0;
}

TensorView Buffer::view(int64_t offset, DType dtype, const Shape& shape) const {
  TensorView view(static_cast<char*>(data()) + offset, dtype, shape, space_);
  HETMEM_ASSERT(offset >= 0 && offset + view.bytes() <= bytes());
  return view;
}

}  // namespace hetmem
