#include "offload/block_device.h"

#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "core/byte_size.h"
#include "core/error.h"
#include "core/fault_plan.h"
#include "device/cpu/memory_guard.h"

namespace hetmem {
namespace {

struct AlignedBlock {
  alignas(kBlockBytes) char bytes[kBlockBytes] = {};
};

[[noreturn]] void fail(const std::string& what, const std::string& path, int code,
                       const std::string& advice) {
  throw Error(ErrorKind::kStorage,
              "cannot " + what + " " + path + ": " + std::strerror(code) + advice);
}

[[noreturn]] void fail_for_space(const std::string& path, int64_t bytes, int64_t free) {
  throw Error(ErrorKind::kStorage, "the disk tier needs " + format_byte_size(bytes) + " in " +
                                       path + ", but the file system has " +
                                       format_byte_size(free) +
                                       " free; lower --disk-memory, free space there or give "
                                       "--disk another folder");
}

int64_t free_bytes(int descriptor) {
  struct statvfs info {};
  if (::fstatvfs(descriptor, &info) != 0) return 0;
  return static_cast<int64_t>(info.f_bavail) * static_cast<int64_t>(info.f_frsize);
}

int reserve(const std::string& path, int descriptor, int64_t bytes) {
  if (next_fault(FaultSite::kDiskReserve, path).fails()) return errno;
  return ::posix_fallocate(descriptor, 0, bytes);
}

// Takes the space now, so that no write finds the disk full later. What is asked of a file system
// that does not have it is refused first: it would be filled up before it failed.
void take_space(const std::string& path, int descriptor, int64_t bytes) {
  const int64_t free = free_bytes(descriptor);
  if (bytes > free) fail_for_space(path, bytes, free);
  int code = EINTR;
  while (code == EINTR) code = reserve(path, descriptor, bytes);
  if (code == ENOSPC || code == EDQUOT) fail_for_space(path, bytes, free_bytes(descriptor));
  if (code != 0) {
    fail("take " + format_byte_size(bytes) + " for", path, code,
         "; lower --disk-memory or give --disk another folder");
  }
}

}  // namespace

BlockFile::BlockFile(std::string path, int descriptor)
    : path_(std::move(path)), descriptor_(descriptor) {}

BlockFile BlockFile::create(const std::string& path, int64_t bytes) {
  HETMEM_ASSERT(bytes > 0 && bytes % kBlockBytes == 0);
  const bool fails = next_fault(FaultSite::kDiskCreate, path).fails();
  const int descriptor =
      fails ? -1 : ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (descriptor < 0) fail("create", path, errno, "; give --disk another folder");
  BlockFile file(path, descriptor);
  take_space(path, descriptor, bytes);
  file.probe_direct();
  return file;
}

// Some file systems refuse direct I/O when a file is opened so, some at the first request.
void BlockFile::probe_direct() {
  if (next_fault(FaultSite::kDiskDirect, path_).fails()) return;
  int other = ::open(path_.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC);
  if (other < 0) return;
  const auto block = std::make_unique<AlignedBlock>();
  direct_ = ::pwrite(other, block->bytes, kBlockBytes, 0) == kBlockBytes &&
            ::pread(other, block->bytes, kBlockBytes, 0) == kBlockBytes;
  if (direct_) std::swap(other, descriptor_);
  ::close(other);
}

BlockFile::BlockFile(BlockFile&& other) noexcept
    : path_(std::move(other.path_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      direct_(other.direct_) {}

BlockFile& BlockFile::operator=(BlockFile&& other) noexcept {
  if (this != &other) {
    if (descriptor_ >= 0) ::close(descriptor_);
    path_ = std::move(other.path_);
    descriptor_ = std::exchange(other.descriptor_, -1);
    direct_ = other.direct_;
  }
  return *this;
}

BlockFile::~BlockFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

const char* name_of(BlockBackend backend) {
  return backend == BlockBackend::kIoUring ? "io_uring" : "threads";
}

BlockBackendChoice choose_block_backend() {
  const int code = try_io_uring();
  if (code != 0) {
    return {BlockBackend::kThreads, std::string("io_uring: ") + std::strerror(code)};
  }
  // Threads hold a scope of the guard while the kernel moves bytes; a ring's requests do not.
  if (MemoryGuard::enabled()) return {BlockBackend::kThreads, "the memory guard is on"};
  return {BlockBackend::kIoUring, ""};
}

std::unique_ptr<BlockDevice> make_block_device(BlockBackend backend, const BlockFile& file,
                                               int depth, void* memory, int64_t bytes) {
  return backend == BlockBackend::kIoUring ? make_io_uring_device(file, depth, memory, bytes)
                                           : make_thread_device(file, depth);
}

}  // namespace hetmem
