#include "io/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "core/error.h"

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

void sync_path(const std::string& path, int flags) {
  const int descriptor = ::open(path.c_str(), flags | O_CLOEXEC);
  if (descriptor < 0) fail(ErrorKind::kStorage, "open", path);
  const int result = ::fsync(descriptor);
  const int code = errno;
  ::close(descriptor);
  errno = code;
  if (result != 0) fail(ErrorKind::kStorage, "sync", path);
}

}  // namespace

File File::open_for_reading(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) fail(ErrorKind::kBadInput, "read", path);
  File file(path, descriptor);
  struct stat info {};
  if (::fstat(descriptor, &info) != 0) fail(ErrorKind::kStorage, "stat", path);
  if (!S_ISREG(info.st_mode)) throw Error(ErrorKind::kBadInput, path + " is not a regular file");
  return file;
}

File File::create(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
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
    const ssize_t got = ::pread(descriptor_, at, static_cast<size_t>(bytes), offset);
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
    const ssize_t put = ::pwrite(descriptor_, at, static_cast<size_t>(bytes), offset);
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) fail(ErrorKind::kStorage, "write", path_);
    at += put;
    offset += put;
    bytes -= put;
  }
}

void File::sync() {
  if (::fsync(descriptor_) != 0) fail(ErrorKind::kStorage, "sync", path_);
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
  if (std::rename(temporary.c_str(), path.c_str()) != 0) {
    fail(ErrorKind::kStorage, "rename to", path);
  }
}

AtomicDirectory::AtomicDirectory(std::string final_path) : final_(std::move(final_path)) {
  while (final_.size() > 1 && final_.back() == '/') final_.pop_back();
  temporary_ = final_ + ".tmp-" + std::to_string(::getpid());
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
  std::error_code code;
  fs::remove_all(final_, code);
  if (std::rename(temporary_.c_str(), final_.c_str()) != 0) {
    fail(ErrorKind::kStorage, "rename to", final_);
  }
  const std::string parent = fs::absolute(final_).parent_path().string();
  sync_path(parent, O_RDONLY | O_DIRECTORY);
}

}  // namespace hetmem
