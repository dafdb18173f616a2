// Memory of the CPU device, for either space: anonymous mappings.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <thread>
#include <vector>

#include "core/byte_size.h"
#include "core/error.h"
#include "core/fault_plan.h"
#include "device/cpu/memory_guard.h"
#include "device/memory.h"
#include "device/thread_pool.h"
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

// Takes all pages of the memory from the system at once; false where it cannot. The system clears
// them, which one thread does more slowly than memory can be written.
bool populate_pages([[maybe_unused]] char* memory, [[maybe_unused]] int64_t bytes) {
#ifdef MADV_POPULATE_WRITE  // Linux 5.14
  constexpr int64_t kLeastPart = 4 * kHugePage;
  constexpr int64_t kMostParts = 16;
  const auto processors = int64_t{available_processors()};
  const int64_t parts =
      std::clamp<int64_t>(std::min(processors, bytes / kLeastPart), 1, kMostParts);
  const int64_t part = round_up((bytes + parts - 1) / parts, kHugePage);
  std::atomic<bool> done = true;
  const auto populate = [&](int64_t first) {
    const int64_t count = std::min(part, bytes - first);
    if (madvise(memory + first, static_cast<size_t>(count), MADV_POPULATE_WRITE) != 0) done = false;
  };
  std::vector<std::thread> others;
  others.reserve(static_cast<size_t>(parts));
  int64_t first = part;
  try {
    for (; first < bytes; first += part) others.emplace_back(populate, first);
  } catch (const std::exception&) {  // no more threads
    for (; first < bytes; first += part) populate(first);
  }
  populate(0);
  for (std::thread& other : others) other.join();
  return done;
#else
  return false;
#endif
}

class SystemMemory final : public Memory {
 public:
  void* allocate(int64_t bytes, MemorySpace space, const std::string& tier) override {
    const int64_t mapped = round_up(bytes, page_bytes());
    const bool refused = next_fault(FaultSite::kMemoryAllocate, tier).kind == Fault::Kind::kFail;
    char* memory =
        refused ? nullptr : map_aligned(mapped, bytes >= kHugePage ? kHugePage : page_bytes());
    if (memory == nullptr) {
      throw Error(ErrorKind::kDoesNotFit, "the operating system refused " +
                                              format_byte_size(bytes) + " of " + tier +
                                              " memory; lower --" + tier + "-memory");
    }
    advise_huge_pages(memory, mapped);
    MemoryGuard::add(memory, mapped, space);
    return memory;
  }

  void release(void* memory, int64_t bytes) noexcept override {
    MemoryGuard::remove(memory);
    unmap_memory(static_cast<char*>(memory), round_up(bytes, page_bytes()));
  }

  void populate(void* memory, int64_t bytes) override {
    const MemoryGuard::Scope scope(MemoryGuard::Access::kCopy);
    if (populate_pages(static_cast<char*>(memory), round_up(bytes, page_bytes()))) return;
    volatile char* at = static_cast<char*>(memory);
    for (int64_t i = 0; i < bytes; i += page_bytes()) at[i] = at[i];
  }

  int64_t touched_bytes(const void* memory, int64_t bytes) const override {
    return hetmem::touched_bytes(memory, bytes);
  }
};

}  // namespace

Memory& system_memory() {
  static SystemMemory memory;
  return memory;
}

}  // namespace hetmem
