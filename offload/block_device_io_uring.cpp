// Blocks through io_uring: one ring a device, so that no lock is taken; the staging memory is
// registered, so that its pages are pinned once and not by every request.
#include <liburing.h>

#include <cerrno>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "core/error.h"
#include "offload/block_call.h"
#include "offload/block_device.h"

namespace hetmem {
namespace {

// 0 or the errno.
int make_ring(int entries, const std::string& path, io_uring& ring) {
  if (next_fault(FaultSite::kDiskRing, path).fails()) return errno;
  return -io_uring_queue_init(static_cast<unsigned>(entries), &ring, 0);
}

class IoUringDevice final : public BlockDevice {
 public:
  IoUringDevice(const BlockFile& file, int depth, void* memory, int64_t bytes)
      : file_(file), slots_(static_cast<size_t>(depth)) {
    const int code = make_ring(depth, file.path(), ring_);
    if (code != 0) {
      throw Error(ErrorKind::kStorage, std::string("io_uring: ") + std::strerror(code));
    }
    // A limit on locked memory may forbid it; requests then pin their pages themselves.
    const iovec whole{memory, static_cast<size_t>(bytes)};
    registered_ = io_uring_register_buffers(&ring_, &whole, 1) == 0;
  }

  ~IoUringDevice() override {
    // The kernel writes to memory that is someone else's afterwards.
    while (under_way_ > 0 && reap() == 0) {
    }
    io_uring_queue_exit(&ring_);
  }

  void start(int index, const BlockRequest& request) override {
    Slot& slot = slots_.at(static_cast<size_t>(index));
    HETMEM_ASSERT(!slot.busy);
    slot = {request, std::nullopt, 0, 0, true};
    submit(index);
  }

  int64_t wait(int index) override {
    Slot& slot = slots_.at(static_cast<size_t>(index));
    while (slot.busy) {
      const int code = reap();
      if (code != 0) return code;
    }
    return slot.result;
  }

 private:
  struct Slot {
    BlockRequest request{};
    std::optional<BlockCall> call;  // under way
    int64_t moved = 0;
    int64_t result = 0;
    bool busy = false;
  };

  // What of the request is still to be moved.
  void submit(int index) {
    Slot& slot = slots_[static_cast<size_t>(index)];
    if (failure_ != 0) return finish(slot, failure_);
    const BlockCall& call = slot.call.emplace(file_.path(), slot.request, slot.moved);
    io_uring_sqe* entry = io_uring_get_sqe(&ring_);
    HETMEM_ASSERT(entry != nullptr);  // there are as many entries as slots
    prepare(*entry, call);
    io_uring_sqe_set_data64(entry, static_cast<uint64_t>(index));
    int code = -EINTR;
    while (code == -EINTR) code = io_uring_submit(&ring_);
    if (code < 0) {
      failure_ = code;
      finish(slot, code);
    } else {
      ++under_way_;
    }
  }

  void prepare(io_uring_sqe& entry, const BlockCall& call) const {
    const int file = file_.descriptor();
    const auto bytes = static_cast<unsigned>(call.bytes);
    const auto offset = static_cast<uint64_t>(call.offset);
    if (call.answer) {
      io_uring_prep_nop(&entry);
    } else if (registered_) {
      call.reads ? io_uring_prep_read_fixed(&entry, file, call.memory, bytes, offset, 0)
                 : io_uring_prep_write_fixed(&entry, file, call.memory, bytes, offset, 0);
    } else {
      call.reads ? io_uring_prep_read(&entry, file, call.memory, bytes, offset)
                 : io_uring_prep_write(&entry, file, call.memory, bytes, offset);
    }
  }

  static void finish(Slot& slot, int64_t result) {
    slot.result = result;
    slot.busy = false;
  }

  // Takes one completion; an error is one of the ring itself.
  int reap() {
    io_uring_cqe* completion = nullptr;
    int code = -EINTR;
    while (code == -EINTR) code = io_uring_wait_cqe(&ring_, &completion);
    if (code != 0) return code;
    const auto index = static_cast<int>(io_uring_cqe_get_data64(completion));
    const int moved = completion->res;
    io_uring_cqe_seen(&ring_, completion);
    --under_way_;
    const BlockCall& call = *slots_[static_cast<size_t>(index)].call;
    take(index, call.result(call.answer.value_or(moved)));
    return 0;
  }

  // The kernel may stop early without an error; the rest is asked for until nothing moves.
  void take(int index, int64_t result) {
    Slot& slot = slots_[static_cast<size_t>(index)];
    if (result == -EINTR) return submit(index);
    if (result < 0) return finish(slot, result);
    slot.moved += result;
    const bool aligned = result % kBlockBytes == 0;
    if (result == 0 || !aligned || slot.moved == slot.request.bytes) {
      finish(slot, slot.moved);
    } else {
      submit(index);
    }
  }

  const BlockFile& file_;
  std::vector<Slot> slots_;
  io_uring ring_{};
  bool registered_ = false;
  int under_way_ = 0;
  int failure_ = 0;  // of the ring: what it did not take would go with the next request
};

}  // namespace

std::unique_ptr<BlockDevice> make_io_uring_device(const BlockFile& file, int depth, void* memory,
                                                  int64_t bytes) {
  return std::make_unique<IoUringDevice>(file, depth, memory, bytes);
}

int try_io_uring() {
  io_uring ring{};
  const int code = make_ring(2, "", ring);
  if (code == 0) io_uring_queue_exit(&ring);
  return code;
}

}  // namespace hetmem
