#include "runtime/output_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "core/error.h"

namespace hetmem {
namespace {

bool is_name_of(const std::string& path, int descriptor) {
  struct stat opened {};
  struct stat named {};
  return ::fstat(descriptor, &opened) == 0 && ::stat(path.c_str(), &named) == 0 &&
         opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
}

}  // namespace

OutputLock::OutputLock(const std::string& folder) : owner_(::getpid()) {
  while (true) {
    descriptor_ = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor_ < 0) return;
    const bool locked = ::flock(descriptor_, LOCK_EX | LOCK_NB) == 0;
    if (locked && is_name_of(folder, descriptor_)) return;
    const bool taken = !locked && errno == EWOULDBLOCK;
    ::close(std::exchange(descriptor_, -1));
    if (taken) {
      throw Error(ErrorKind::kBadInput, "another run is writing into --out " + folder +
                                            "; wait until it has ended, or choose another --out");
    }
    if (!locked) return;
    // A run that was given up has removed the folder meanwhile.
  }
}

OutputLock::OutputLock(OutputLock&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)), owner_(other.owner_) {}

OutputLock& OutputLock::operator=(OutputLock&& other) noexcept {
  if (this != &other) {
    release();
    descriptor_ = std::exchange(other.descriptor_, -1);
    owner_ = other.owner_;
  }
  return *this;
}

OutputLock::~OutputLock() { release(); }

// Children that were forked meanwhile share the lock: closing the file would leave it to them, and
// what one of them gives up is not its own.
void OutputLock::release() {
  if (descriptor_ < 0) return;
  if (owner_ == ::getpid()) ::flock(descriptor_, LOCK_UN);
  ::close(std::exchange(descriptor_, -1));
}

}  // namespace hetmem
