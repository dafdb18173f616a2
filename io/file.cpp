#include "io/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/fault_plan.h"

namespace hetmem {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail(ErrorKind kind, const std::string& what, const std::string& path) {
  throw Error(kind, "cannot " + what + " " + path + ": " + std::strerror(errno));
}

// What cannot be made because of where it was asked for is bad input; the rest is the storage's.
ErrorKind kind_of_creation_failure(int code) {
  const bool storage = code == ENOSPC || code == EDQUOT || code == EIO || code == EMFILE ||
                       code == ENFILE || code == ENOMEM;
  return storage ? ErrorKind::kStorage : ErrorKind::kBadInput;
}

// The system's calls behind the seam of the FaultPlan: they fail as the system's do.
bool told_to_fail(const Fault& fault) {
  if (fault.kind == Fault::Kind::kError) errno = fault.code;
  return fault.kind == Fault::Kind::kError;
}

int open_file(FaultSite site, const std::string& path, int flags) {
  if (told_to_fail(next_fault(site, path))) return -1;
  return ::open(path.c_str(), flags | O_CLOEXEC, 0666);
}

ssize_t read_some(int descriptor, const std::string& path, void* to, int64_t bytes,
                  int64_t offset) {
  const Fault fault = next_fault(FaultSite::kFileRead, path);
  if (told_to_fail(fault)) return -1;
  if (fault.kind == Fault::Kind::kShort) bytes = (bytes + 1) / 2;
  const ssize_t got = ::pread(descriptor, to, static_cast<size_t>(bytes), offset);
  if (fault.kind == Fault::Kind::kBitFlip) fault.flip_bit(to, got);
  return got;
}

ssize_t write_some(int descriptor, const std::string& path, const void* from, int64_t bytes,
                   int64_t offset) {
  const Fault fault = next_fault(FaultSite::kFileWrite, path);
  if (told_to_fail(fault)) return -1;
  if (fault.kind == Fault::Kind::kShort) bytes = (bytes + 1) / 2;
  if (fault.kind != Fault::Kind::kBitFlip) {
    return ::pwrite(descriptor, from, static_cast<size_t>(bytes), offset);
  }
  std::vector<char> flipped(static_cast<const char*>(from), static_cast<const char*>(from) + bytes);
  fault.flip_bit(flipped.data(), bytes);
  return ::pwrite(descriptor, flipped.data(), flipped.size(), offset);
}

int sync_file(int descriptor, const std::string& path) {
  return told_to_fail(next_fault(FaultSite::kFileSync, path)) ? -1 : ::fsync(descriptor);
}

int rename_path(const std::string& from, const std::string& to, unsigned flags = 0) {
  if (told_to_fail(next_fault(FaultSite::kFileRename, to))) return -1;
  return ::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), flags);
}

void sync_path(const std::string& path, int flags) {
  const int descriptor = open_file(FaultSite::kFileOpen, path, flags);
  if (descriptor < 0) fail(ErrorKind::kStorage, "open", path);
  const int result = sync_file(descriptor, path);
  const int code = errno;
  ::close(descriptor);
  errno = code;
  if (result != 0) fail(ErrorKind::kStorage, "sync", path);
}

constexpr std::string_view kTemporary = ".tmp-";

std::string temporary_beside(const std::string& path) {
  return path + std::string(kTemporary) + std::to_string(::getpid());
}

// Whether `name` is a temporary directory whose process is no more, or was one with our own number.
bool is_abandoned(const std::string& name) {
  const size_t at = name.rfind(kTemporary);
  if (at == std::string::npos) return false;
  const char* begin = name.data() + at + kTemporary.size();
  const char* end = name.data() + name.size();
  pid_t process = 0;
  const auto [stop, code] = std::from_chars(begin, end, process);
  if (code != std::errc() || stop != end || process <= 0) return false;
  return process == ::getpid() || (::kill(process, 0) != 0 && errno == ESRCH);
}

}  // namespace

File File::open_for_reading(const std::string& path) {
  const int descriptor = open_file(FaultSite::kFileOpen, path, O_RDONLY);
  if (descriptor < 0) {
    const bool storage = errno == EIO || errno == EMFILE || errno == ENFILE;
    fail(storage ? ErrorKind::kStorage : ErrorKind::kBadInput, "read", path);
  }
  File file(path, descriptor);
  struct stat info {};
  if (::fstat(descriptor, &info) != 0) fail(ErrorKind::kStorage, "stat", path);
  if (!S_ISREG(info.st_mode)) throw Error(ErrorKind::kBadInput, path + " is not a regular file");
  return file;
}

File File::create(const std::string& path) {
  const int descriptor = open_file(FaultSite::kFileCreate, path, O_RDWR | O_CREAT | O_TRUNC);
  if (descriptor < 0) fail(kind_of_creation_failure(errno), "create", path);
  return {path, descriptor};
}

File File::open_for_appending(const std::string& path) {
  const int descriptor = open_file(FaultSite::kFileCreate, path, O_RDWR | O_CREAT);
  if (descriptor < 0) fail(kind_of_creation_failure(errno), "create", path);
  return {path, descriptor};
}

File::File(File&& other) noexcept
    : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {}

File& File::operator=(File&& other) noexcept {
  if (this != &other) {
    if (descriptor_ >= 0) ::close(descriptor_);
    path_ = std::move(other.path_);
    descriptor_ = std::exchange(other.descriptor_, -1);
  }
  return *this;
}

File::~File() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

int64_t File::size() const {
  struct stat info {};
  if (::fstat(descriptor_, &info) != 0) fail(ErrorKind::kStorage, "stat", path_);
  return info.st_size;
}

void File::read(int64_t offset, void* destination, int64_t bytes) const {
  auto* at = static_cast<char*>(destination);
  while (bytes > 0) {
    const ssize_t got = read_some(descriptor_, path_, at, bytes, offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail(ErrorKind::kStorage, "read", path_);
    if (got == 0) {
      throw Error(ErrorKind::kStorage, path_ + " ended at byte " + std::to_string(offset) +
                                           " with " + std::to_string(bytes) +
                                           " bytes still to read; is it being changed?");
    }
    at += got;
    offset += got;
    bytes -= got;
  }
}

void File::write(int64_t offset, const void* source, int64_t bytes) {
  const auto* at = static_cast<const char*>(source);
  while (bytes > 0) {
    const ssize_t put = write_some(descriptor_, path_, at, bytes, offset);
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) fail(ErrorKind::kStorage, "write", path_);
    at += put;
    offset += put;
    bytes -= put;
  }
}

void File::sync() {
  if (sync_file(descriptor_, path_) != 0) fail(ErrorKind::kStorage, "sync", path_);
}

std::string read_text_file(const std::string& path) {
  const File file = File::open_for_reading(path);
  std::string text(static_cast<size_t>(file.size()), '\0');
  file.read(0, text.data(), static_cast<int64_t>(text.size()));
  return text;
}

void write_text_file(const std::string& path, std::string_view text) {
  const std::string temporary = path + ".tmp";
  {
    File file = File::create(temporary);
    file.write(0, text.data(), static_cast<int64_t>(text.size()));
    file.sync();
  }
  if (rename_path(temporary, path) != 0) fail(ErrorKind::kStorage, "rename to", path);
}

AtomicDirectory::AtomicDirectory(std::string final_path) : final_(std::move(final_path)) {
  while (final_.size() > 1 && final_.back() == '/') final_.pop_back();
  temporary_ = temporary_beside(final_);
  std::error_code code;
  fs::remove_all(temporary_, code);
  fs::create_directories(temporary_, code);
  if (code) {
    throw Error(kind_of_creation_failure(code.value()),
                "cannot create " + final_ + ": " + code.message());
  }
}

AtomicDirectory::~AtomicDirectory() {
  std::error_code code;
  fs::remove_all(temporary_, code);
}

void AtomicDirectory::commit() {
  for (const auto& entry : fs::directory_iterator(temporary_)) {
    if (entry.is_regular_file()) sync_path(entry.path().string(), O_RDONLY);
  }
  sync_path(temporary_, O_RDONLY | O_DIRECTORY);
  kill_point(FaultSite::kDirectorySynced);
  std::error_code code;
  if (rename_path(temporary_, final_, RENAME_NOREPLACE) != 0 && !replace()) {
    fail(ErrorKind::kStorage, "rename to", final_);
  }
  const std::string parent = fs::absolute(final_).parent_path().string();
  sync_path(parent, O_RDONLY | O_DIRECTORY);
  kill_point(FaultSite::kDirectoryCommitted);
  fs::remove_all(temporary_, code);
}

// The old one takes the temporary name.
bool AtomicDirectory::replace() {
  if (errno != EEXIST && errno != EINVAL && errno != ENOSYS) return false;
  if (rename_path(temporary_, final_, RENAME_EXCHANGE) == 0) return true;
  if (errno != EINVAL && errno != ENOSYS && errno != ENOENT) return false;
  const std::string old = temporary_beside(temporary_);
  if (rename_path(final_, old) != 0 && errno != ENOENT) return false;
  kill_point(FaultSite::kDirectoryMoved);
  if (rename_path(temporary_, final_) != 0) {
    const int reason = errno;
    rename_path(old, final_);
    errno = reason;
    return false;
  }
  std::error_code code;
  fs::remove_all(old, code);
  return true;
}

void AtomicDirectory::remove(const std::string& path) {
  const std::string temporary = temporary_beside(path);
  std::error_code code;
  fs::remove_all(temporary, code);
  if (rename_path(path, temporary) != 0) fail(ErrorKind::kStorage, "remove", path);
  fs::remove_all(temporary, code);
  if (code) {
    throw Error(ErrorKind::kStorage, "cannot remove " + temporary + ": " + code.message());
  }
}

void AtomicDirectory::remove_abandoned(const std::string& folder) {
  std::error_code code;
  std::vector<fs::path> abandoned;
  for (const auto& entry : fs::directory_iterator(folder, code)) {
    if (is_abandoned(entry.path().filename().string())) abandoned.push_back(entry.path());
  }
  for (const fs::path& path : abandoned) fs::remove_all(path, code);
}

}  // namespace hetmem
