#include "device/cpu/memory_guard.h"

#include <sys/mman.h>

#include <cstdlib>
#include <map>
#include <string_view>

#include "core/error.h"

namespace hetmem {
namespace {

using Access = MemoryGuard::Access;

struct Mapping {
  int64_t bytes;
  MemorySpace space;
  int protection;  // as it is now
};

int protection_of(MemorySpace space, Access access) {
  const Access refused = space == MemorySpace::kDevice ? Access::kHost : Access::kKernel;
  return access == refused ? PROT_NONE : PROT_READ | PROT_WRITE;
}

struct Registry {
  std::recursive_mutex turn;  // held by whoever has a Scope
  std::mutex mutex;           // guards what follows
  std::map<void*, Mapping> mappings;
  Access access = Access::kHost;  // nothing runs

  static bool protect(void* memory, Mapping& mapping, int protection) {
    if (mapping.protection == protection) return true;
    if (mprotect(memory, static_cast<size_t>(mapping.bytes), protection) != 0) return false;
    mapping.protection = protection;
    return true;
  }

  // Returns what was allowed before; `done` says whether the system gave every change.
  Access allow(Access wanted, bool& done) {
    const std::lock_guard lock(mutex);
    const Access before = access;
    access = wanted;
    done = true;
    for (auto& [memory, mapping] : mappings) {
      done &= protect(memory, mapping, protection_of(mapping.space, wanted));
    }
    return before;
  }
};

Registry& registry() {
  static Registry instance;
  return instance;
}

}  // namespace

std::atomic<MemoryGuard::Mode> MemoryGuard::mode_{Mode::kUnread};

bool MemoryGuard::read_environment() {
  const char* wanted = std::getenv("HETMEM_MEMORY_GUARD");
  const bool on = wanted != nullptr && std::string_view(wanted) == "1";
  Mode unread = Mode::kUnread;
  mode_.compare_exchange_strong(unread, on ? Mode::kOn : Mode::kOff);
  return mode_.load() == Mode::kOn;
}

void MemoryGuard::enable() { mode_.store(Mode::kOn); }

void MemoryGuard::disable() {
  mode_.store(Mode::kOff);
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  for (auto& [memory, mapping] : all.mappings) {
    Registry::protect(memory, mapping, PROT_READ | PROT_WRITE);
  }
  all.mappings.clear();
}

MemoryGuard::Scope::Scope(Access access) {
  if (!enabled()) return;
  turn_ = std::unique_lock(registry().turn);
  bool done = false;
  outer_ = registry().allow(access, done);
  if (done) return;
  registry().allow(outer_, done);
  HETMEM_ASSERT(!"mprotect refused to change the protection of a Buffer");
}

MemoryGuard::Scope::~Scope() {
  if (!turn_.owns_lock()) return;
  bool done = false;  // where the system refuses, the guard finds less, and nothing breaks
  registry().allow(outer_, done);
}

void MemoryGuard::add(void* memory, int64_t bytes, MemorySpace space) {
  if (!enabled()) return;
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  Mapping& mapping = all.mappings[memory];
  mapping = {bytes, space, PROT_READ | PROT_WRITE};
  Registry::protect(memory, mapping, protection_of(space, all.access));
}

void MemoryGuard::remove(void* memory) {
  if (!enabled()) return;  // disable() forgot all
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  all.mappings.erase(memory);
}

}  // namespace hetmem
