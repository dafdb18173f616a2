#include "offload/disk_lane.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/byte_size.h"
#include "core/error.h"
#include "device/cpu/memory_guard.h"

namespace hetmem {
namespace {

bool writes(const DiskTransfer& transfer) { return transfer.kind == BlockRequest::Kind::kWrite; }

// Of [begin, begin + bytes) of what is stored, how much is payload.
int64_t payload_of(const DiskTransfer& transfer, int64_t begin, int64_t bytes) {
  return std::clamp<int64_t>(transfer.trailer.label.bytes - begin, 0, bytes);
}

bool has_trailer(const DiskTransfer& transfer, int64_t begin, int64_t bytes) {
  return begin + bytes == transfer.stored_bytes;
}

}  // namespace

void DiskTransfer::wait() const {
  std::unique_lock lock(mutex_);
  signal_.wait(lock, [this] { return done_; });
  if (failure_) throw Error(failure_->kind, failure_->text);
}

bool DiskTransfer::done() const {
  const std::lock_guard lock(mutex_);
  return done_;
}

void DiskTransfer::finish() {
  seal.reset();
  claim.reset();
  const std::lock_guard lock(mutex_);
  done_ = true;
  signal_.notify_all();
}

DiskLane::DiskLane(const BlockFile& file, std::unique_ptr<BlockDevice> device, char* staging,
                   int depth, int64_t piece_bytes)
    : file_(file),
      device_(std::move(device)),
      staging_(staging),
      depth_(depth),
      piece_bytes_(piece_bytes),
      thread_([this] { run(); }) {}

DiskLane::~DiskLane() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void DiskLane::push(std::shared_ptr<DiskTransfer> transfer) {
  {
    const std::lock_guard lock(mutex_);
    queue_.push_back(std::move(transfer));
  }
  wake_.notify_one();
}

void DiskLane::run() {
  for (;;) {
    if (!feeding_) feeding_ = take(under_way_.empty());
    if (feeding_ && static_cast<int>(under_way_.size()) < depth_) {
      feed();
    } else if (!under_way_.empty()) {
      retire();
    } else {
      return;  // stopping, and everything was done
    }
  }
}

std::shared_ptr<DiskTransfer> DiskLane::take(bool block) {
  std::unique_lock lock(mutex_);
  if (block) wake_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
  if (queue_.empty()) return nullptr;
  std::shared_ptr<DiskTransfer> transfer = std::move(queue_.front());
  queue_.pop_front();
  return transfer;
}

void DiskLane::feed() {
  DiskTransfer& transfer = *feeding_;
  const Piece piece{feeding_, next_index_, transfer.fed_,
                    std::min(piece_bytes_, transfer.stored_bytes - transfer.fed_)};
  try {
    if (writes(transfer)) fill(piece);
  } catch (const std::exception& failure) {
    fail(transfer, failure);
    finish_if_last(transfer);  // `piece` holds it
    return;
  }
  device_->start(piece.index,
                 {transfer.kind, staging_of(piece), transfer.offset + piece.begin, piece.bytes});
  under_way_.push_back(piece);
  next_index_ = (next_index_ + 1) % depth_;
  transfer.fed_ += piece.bytes;
  ++transfer.under_way_;
  if (transfer.fed_ == transfer.stored_bytes) feeding_ = nullptr;
}

// The oldest piece first: payloads are checked in order.
void DiskLane::retire() {
  const Piece piece = std::move(under_way_.front());
  under_way_.pop_front();
  DiskTransfer& transfer = *piece.transfer;
  const int64_t moved = device_->wait(piece.index);
  moved_bytes_ += std::max<int64_t>(moved, 0);
  --transfer.under_way_;
  try {
    if (!transfer.failure_) {
      check(piece, moved);
      if (!writes(transfer)) drain(piece);
    }
  } catch (const std::exception& failure) {
    fail(transfer, failure);
  }
  finish_if_last(transfer);
}

// The rest of a transfer that failed is not started.
void DiskLane::fail(DiskTransfer& transfer, const std::exception& failure) {
  const auto* error = dynamic_cast<const Error*>(&failure);
  transfer.failure_ = {error != nullptr ? error->kind() : ErrorKind::kInternal, failure.what()};
  if (feeding_.get() == &transfer) feeding_ = nullptr;
}

void DiskLane::finish_if_last(DiskTransfer& transfer) const {
  if (transfer.under_way_ == 0 && feeding_.get() != &transfer) transfer.finish();
}

void DiskLane::fill(const Piece& piece) const {
  DiskTransfer& transfer = *piece.transfer;
  char* stored = staging_of(piece);
  const int64_t payload = payload_of(transfer, piece.begin, piece.bytes);
  const MemoryGuard::Scope scope(MemoryGuard::Access::kCopy);
  transfer.seal->write(transfer.memory + piece.begin, stored, payload);
  std::memset(stored + payload, 0, static_cast<size_t>(piece.bytes - payload));
  if (!has_trailer(transfer, piece.begin, piece.bytes)) return;
  transfer.trailer.digest = transfer.seal->digest();
  std::memcpy(stored + piece.bytes - sizeof(SlotTrailer), &transfer.trailer, sizeof(SlotTrailer));
}

void DiskLane::drain(const Piece& piece) const {
  DiskTransfer& transfer = *piece.transfer;
  const char* stored = staging_of(piece);
  const MemoryGuard::Scope scope(MemoryGuard::Access::kCopy);
  transfer.seal->read(stored, transfer.memory + piece.begin,
                      payload_of(transfer, piece.begin, piece.bytes));
  if (!has_trailer(transfer, piece.begin, piece.bytes)) return;
  SlotTrailer found;
  std::memcpy(&found, stored + piece.bytes - sizeof(SlotTrailer), sizeof(SlotTrailer));
  std::string fault = find_fault(found, transfer.trailer);
  if (fault.empty() && !transfer.seal->matches(found.digest)) {
    fault = "its bytes are not those that were written";
  }
  if (fault.empty()) return;
  throw Error(ErrorKind::kCorrupt,
              "chunk " + transfer.name + " came back wrong from " + file_.path() + " (" +
                  format_byte_size(transfer.trailer.label.bytes) + " at byte " +
                  std::to_string(transfer.offset) + "): " + fault +
                  "; resume from a checkpoint and check that disk");
}

void DiskLane::check(const Piece& piece, int64_t moved) const {
  if (moved == piece.bytes) return;
  const DiskTransfer& transfer = *piece.transfer;
  const std::string what =
      moved < 0 ? std::string(std::strerror(static_cast<int>(-moved)))
                : std::to_string(moved) + " of " + std::to_string(piece.bytes) + " bytes moved";
  throw Error(ErrorKind::kStorage,
              std::string("cannot ") + (writes(transfer) ? "write" : "read") + " chunk " +
                  transfer.name + (writes(transfer) ? " to " : " from ") + file_.path() +
                  " at byte " + std::to_string(transfer.offset + piece.begin) + ": " + what +
                  "; resume from a checkpoint and check that disk");
}

}  // namespace hetmem
