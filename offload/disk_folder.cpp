#include "offload/disk_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <vector>

#include "core/byte_size.h"
#include "core/error.h"
#include "core/fault_plan.h"
#include "core/log.h"

namespace hetmem {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPrefix = "hetmem-disk-";
constexpr const char* kFileName = "chunks";

// The descriptor of a folder that no one else has locked, locked; else -1. A link is no folder.
int open_and_lock(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (descriptor < 0) return -1;
  if (::flock(descriptor, LOCK_EX | LOCK_NB) == 0) return descriptor;
  ::close(descriptor);
  return -1;
}

// Whether the path still names the folder that is open.
bool is_still_there(int descriptor, const std::string& path) {
  struct stat opened {};
  struct stat named {};
  return ::fstat(descriptor, &opened) == 0 && ::lstat(path.c_str(), &named) == 0 &&
         opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
}

// Removes what DiskFolder makes and nothing else: a folder that holds more stays.
void remove_locked(int descriptor, const std::string& path) {
  ::unlinkat(descriptor, kFileName, 0);
  ::rmdir(path.c_str());
}

void remove_if_dead(const std::string& path) {
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0 || info.st_uid != ::geteuid()) return;
  const int descriptor = open_and_lock(path);
  if (descriptor < 0) return;  // its owner lives
  remove_locked(descriptor, path);
  ::close(descriptor);
  log(LogLevel::kInfo, "removed " + path + ", left by a run that did not end");
}

void remove_leftovers(const std::string& parent) {
  std::error_code code;
  std::vector<std::string> paths;
  for (const auto& entry : fs::directory_iterator(parent, code)) {
    if (entry.path().filename().string().rfind(kPrefix, 0) == 0) paths.push_back(entry.path());
  }
  for (const std::string& path : paths) remove_if_dead(path);
}

}  // namespace

DiskFolder::Private::Private(const std::string& parent) {
  std::error_code code;
  if (!fs::is_directory(parent, code)) {
    throw Error(ErrorKind::kBadInput, "--disk " + parent + " is not a folder; make it first");
  }
  remove_leftovers(parent);
  while (!try_make(parent)) {
  }
}

// Another run may take the folder for a leftover between its making and its locking; then the next
// one is tried.
bool DiskFolder::Private::try_make(const std::string& parent) {
  std::string path = parent + "/" + kPrefix + "XXXXXX";
  if (next_fault(FaultSite::kDiskCreate, path).fails() || ::mkdtemp(path.data()) == nullptr) {
    const bool full = errno == ENOSPC || errno == EDQUOT || errno == EIO;
    throw Error(full ? ErrorKind::kStorage : ErrorKind::kBadInput,
                "cannot make a folder in --disk " + parent + ": " + std::strerror(errno));
  }
  const int descriptor = open_and_lock(path);
  if (descriptor >= 0 && is_still_there(descriptor, path)) {
    path_ = path;
    lock_ = descriptor;
    return true;
  }
  if (descriptor >= 0) ::close(descriptor);
  return false;
}

DiskFolder::Private::~Private() {
  remove_locked(lock_, path_);
  ::close(lock_);
}

DiskFolder::DiskFolder(const std::string& parent, int64_t bytes)
    : bytes_(bytes),
      folder_(parent),
      file_(BlockFile::create(folder_.path() + "/" + kFileName, bytes)) {}

DiskFolder::~DiskFolder() = default;

}  // namespace hetmem
