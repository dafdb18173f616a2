// BlockDevice: asynchronous reads and writes of aligned blocks of one file, behind one interface
// with two implementations: io_uring, and threads that call pread and pwrite where io_uring is not
// allowed (containers) or not there. Which one is chosen at run time.
//
//   const BlockFile file = BlockFile::create(path, bytes);
//   auto device = make_block_device(choose_block_backend().backend, file, depth, memory, bytes);
//   device->start(0, {BlockRequest::Kind::kRead, memory, offset, 1 << 20});
//   const int64_t moved = device->wait(0);   // bytes, or a negative errno
//
// A device is for one thread, which starts and waits; several devices may share a file. Requests
// that are under way together do not overlap. Tests replace it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace hetmem {

// What addresses, offsets and lengths of requests are multiples of: enough for direct I/O on every
// disk (512 or 4096 bytes a sector).
constexpr int64_t kBlockBytes = 4096;

// A new file of a fixed size whose space is taken from the file system. Move-only; closes the file,
// which stays where it is.
class BlockFile {
 public:
  // `bytes` in whole blocks; the file must not be there yet. Opened for direct I/O where the file
  // system takes it. Throws Error (kStorage), with what is free where the space is not there.
  static BlockFile create(const std::string& path, int64_t bytes);
  BlockFile(BlockFile&& other) noexcept;
  BlockFile& operator=(BlockFile&& other) noexcept;
  ~BlockFile();
  const std::string& path() const { return path_; }
  int descriptor() const { return descriptor_; }
  // Whether it goes past the page cache.
  bool direct() const { return direct_; }

 private:
  BlockFile(std::string path, int descriptor);
  void probe_direct();
  std::string path_;
  int descriptor_ = -1;
  bool direct_ = false;
};

struct BlockRequest {
  enum class Kind : uint8_t { kRead, kWrite };
  Kind kind;
  void* memory;    // within the memory that the device was made with
  int64_t offset;  // in the file
  int64_t bytes;   // at most 1 GiB
};

class BlockDevice {
 public:
  BlockDevice() = default;
  virtual ~BlockDevice() = default;  // waits for what is under way
  BlockDevice(const BlockDevice&) = delete;
  BlockDevice& operator=(const BlockDevice&) = delete;
  // Starts a request under a number below the depth that is not under way, and returns at once.
  virtual void start(int index, const BlockRequest& request) = 0;
  // Blocks until that request is done: the bytes moved, fewer than asked for where the file ends
  // or the disk is full, or a negative errno.
  virtual int64_t wait(int index) = 0;
};

enum class BlockBackend : uint8_t { kIoUring, kThreads };
// "io_uring", "threads"
const char* name_of(BlockBackend backend);

struct BlockBackendChoice {
  BlockBackend backend;
  std::string reason;  // why not io_uring; empty where it is
};
// io_uring where the system has it and lets this process use it. Asks the system each time.
BlockBackendChoice choose_block_backend();

// `depth`: requests under way at once. `memory`: what all requests read and write, aligned to
// kBlockBytes. The file outlives the device. Throws Error (kStorage) where the backend cannot be
// had.
std::unique_ptr<BlockDevice> make_block_device(BlockBackend backend, const BlockFile& file,
                                               int depth, void* memory, int64_t bytes);

// The backends.
std::unique_ptr<BlockDevice> make_io_uring_device(const BlockFile& file, int depth, void* memory,
                                                  int64_t bytes);
std::unique_ptr<BlockDevice> make_thread_device(const BlockFile& file, int depth);
// 0 where a ring can be made, else the errno.
int try_io_uring();

}  // namespace hetmem
