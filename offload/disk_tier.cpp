#include "offload/disk_tier.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "core/byte_size.h"
#include "core/error.h"

namespace hetmem {
namespace {

constexpr int kDirections = 2;

int64_t round_up(int64_t bytes) { return (bytes + kBlockBytes - 1) / kBlockBytes * kBlockBytes; }

int64_t lane_bytes(const DiskOptions& options) { return options.depth * options.piece_bytes; }

BlockBackendChoice backend_of(const DiskOptions& options) {
  if (!options.backend) return choose_block_backend();
  return {*options.backend, *options.backend == BlockBackend::kIoUring ? "" : "as asked"};
}

// An equal part of the budget for each folder, in whole blocks.
int64_t bytes_of_each(const DiskOptions& options) {
  HETMEM_ASSERT(!options.folders.empty() && options.depth > 0);
  HETMEM_ASSERT(options.piece_bytes >= kBlockBytes && options.piece_bytes % kBlockBytes == 0);
  const auto folders = static_cast<int64_t>(options.folders.size());
  const int64_t bytes = options.budget / folders / kBlockBytes * kBlockBytes;
  if (bytes > 0) return bytes;
  throw Error(ErrorKind::kDoesNotFit, "--disk-memory " + format_byte_size(options.budget) +
                                          " is less than a block of 4096 bytes in each of " +
                                          std::to_string(folders) + " folders; raise it");
}

}  // namespace

struct DiskTier::Folder {
  Folder(const std::string& parent, int64_t bytes) : place(parent, bytes), extents(bytes) {}
  DiskFolder place;
  Extents extents;
  std::unique_ptr<DiskLane> reads;
  std::unique_ptr<DiskLane> writes;
};

struct DiskSlot::State {
  State(DiskTier& owner, std::string chunk_name, int64_t payload_bytes, Reservation reserved)
      : disk(owner),
        name(std::move(chunk_name)),
        bytes(payload_bytes),
        reservation(std::move(reserved)) {}
  ~State() {
    if (offset < 0) return;
    const std::lock_guard lock(disk.mutex_);
    disk.folders_[folder]->extents.give_back(offset, reservation.bytes());
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  DiskTier& disk;
  const std::string name;
  const int64_t bytes;
  Reservation reservation;
  uint64_t chunk = 0;
  size_t folder = 0;
  int64_t offset = -1;
  static constexpr int kWriting = -1;
  std::atomic<int> users{0};  // reads under way; kWriting: a write
  int64_t generation = -1;    // last written; of the write that has the slot
};

// The right of one operation to a slot: of a write to all of it, which reads share. Keeps the slot
// while bytes move.
class DiskSlot::Claim {
 public:
  Claim(std::shared_ptr<State> state, bool writes) : state_(std::move(state)), writes_(writes) {
    int users = state_->users.load();
    do {
      HETMEM_ASSERT(writes ? users == 0 : users >= 0);
    } while (!state_->users.compare_exchange_weak(users, writes ? State::kWriting : users + 1));
  }
  ~Claim() {
    if (writes_) {
      state_->users.store(0);
    } else {
      state_->users.fetch_sub(1);
    }
  }
  Claim(const Claim&) = delete;
  Claim& operator=(const Claim&) = delete;

 private:
  std::shared_ptr<State> state_;
  const bool writes_;
};

const std::string& DiskSlot::name() const { return state_->name; }
int64_t DiskSlot::bytes() const { return state_ ? state_->bytes : 0; }
int64_t DiskSlot::offset() const { return state_->offset; }
const std::string& DiskSlot::path() const {
  return state_->disk.folders_[state_->folder]->place.file().path();
}

DiskOperation& DiskOperation::operator=(DiskOperation&& other) noexcept {
  std::swap(transfer_, other.transfer_);  // what was here is waited for with `other`
  return *this;
}

DiskOperation::~DiskOperation() {
  if (!transfer_) return;
  try {
    transfer_->wait();
  } catch (...) {  // NOLINT(bugprone-empty-catch)
  }
}

void DiskOperation::wait() {
  if (transfer_) transfer_->wait();
}

bool DiskOperation::done() const { return !transfer_ || transfer_->done(); }

int64_t DiskTier::stored_bytes(int64_t bytes) {
  return round_up(bytes + static_cast<int64_t>(sizeof(SlotTrailer)));
}

int64_t DiskTier::staging_bytes(const DiskOptions& options) {
  return static_cast<int64_t>(options.folders.size()) * kDirections * lane_bytes(options);
}

DiskTier::DiskTier(const DiskOptions& options, Tier& host)
    : tier_("disk", options.budget),
      key_(options.encrypt ? std::make_unique<SealKey>() : nullptr),
      backend_(backend_of(options)),
      staging_(host, staging_bytes(options), MemoryKind::kStaging, MemorySpace::kHost) {
  const int64_t bytes = bytes_of_each(options);
  auto* staging = static_cast<char*>(staging_.data());
  for (const std::string& parent : options.folders) {
    auto folder = std::make_unique<Folder>(parent, bytes);
    folder->reads = make_lane(options, folder->place.file(), staging);
    folder->writes = make_lane(options, folder->place.file(), staging + lane_bytes(options));
    staging += kDirections * lane_bytes(options);
    folders_.push_back(std::move(folder));
  }
}

DiskTier::~DiskTier() {
  // What a lane finishes may give a slot back, for which the folders must still be there.
  for (const auto& folder : folders_) {
    folder->reads.reset();
    folder->writes.reset();
  }
}

std::unique_ptr<DiskLane> DiskTier::make_lane(const DiskOptions& options, const BlockFile& file,
                                              char* staging) {
  return std::make_unique<DiskLane>(file, make_device(options, file, staging), staging,
                                    options.depth, options.piece_bytes);
}

// A ring more may be one too many, of memory or of descriptors; threads do for what is left.
std::unique_ptr<BlockDevice> DiskTier::make_device(const DiskOptions& options,
                                                   const BlockFile& file, char* staging) {
  const int64_t bytes = lane_bytes(options);
  if (options.make_device) return options.make_device(file, staging, bytes);
  try {
    return make_block_device(backend_.backend, file, options.depth, staging, bytes);
  } catch (const Error& error) {
    const bool other = backend_.backend == BlockBackend::kIoUring && !options.backend;
    if (!other || error.kind() != ErrorKind::kStorage) throw;
    backend_ = {BlockBackend::kThreads, error.what()};
    return make_block_device(backend_.backend, file, options.depth, staging, bytes);
  }
}

DiskLane& DiskTier::lane(size_t folder, BlockRequest::Kind kind) {
  Folder& on = *folders_[folder];
  return kind == BlockRequest::Kind::kRead ? *on.reads : *on.writes;
}

DiskSlot DiskTier::allocate(const std::string& name, int64_t bytes, MemoryKind kind) {
  HETMEM_ASSERT(bytes > 0);
  const int64_t stored = stored_bytes(bytes);
  auto state = std::make_shared<DiskSlot::State>(*this, name, bytes, tier_.reserve(stored, kind));
  const std::lock_guard lock(mutex_);
  int64_t largest = 0;
  for (size_t i = 0; i < folders_.size(); ++i) {
    const size_t folder = (next_folder_ + i) % folders_.size();
    Extents& extents = folders_[folder]->extents;
    state->offset = extents.take(stored);
    if (state->offset >= 0) {
      state->folder = folder;
      state->chunk = next_chunk_++;
      next_folder_ = (folder + 1) % folders_.size();
      return DiskSlot(std::move(state));
    }
    largest = std::max(largest, extents.largest_free());
  }
  throw Error(ErrorKind::kDoesNotFit,
              "chunk " + name + " needs " + format_byte_size(stored) +
                  " of disk memory in one piece, but the largest that is free in " +
                  std::to_string(folders_.size()) + " folders has " + format_byte_size(largest) +
                  "; raise --disk-memory");
}

std::shared_ptr<DiskTransfer> DiskTier::begin(const DiskSlot& slot, BlockRequest::Kind kind,
                                              char* memory, int64_t generation) {
  const std::shared_ptr<DiskSlot::State>& state = slot.state_;
  HETMEM_ASSERT(state != nullptr && &state->disk == this && generation >= 0);
  const bool writes = kind == BlockRequest::Kind::kWrite;
  auto claim = std::make_shared<DiskSlot::Claim>(state, writes);
  if (writes) {
    // A nonce that is used twice would give the payloads away.
    HETMEM_ASSERT(generation > state->generation);
    state->generation = generation;
  }
  const SlotLabel label{run_, state->chunk, generation, state->bytes};
  auto transfer = std::make_shared<DiskTransfer>();
  transfer->kind = kind;
  transfer->name = state->name;
  transfer->memory = memory;
  transfer->offset = state->offset;
  transfer->stored_bytes = state->reservation.bytes();
  transfer->trailer = make_trailer(label, key_ != nullptr, {});
  transfer->seal = key_ ? make_cipher_seal(*key_, label, writes ? SealUse::kWrite : SealUse::kRead)
                        : make_checksum_seal();
  transfer->claim = std::move(claim);
  return transfer;
}

DiskOperation DiskTier::write(const DiskSlot& slot, const void* data, int64_t generation) {
  auto transfer = begin(slot, BlockRequest::Kind::kWrite,
                        static_cast<char*>(const_cast<void*>(data)), generation);
  lane(slot.state_->folder, transfer->kind).push(transfer);
  return DiskOperation(std::move(transfer));
}

DiskOperation DiskTier::read(const DiskSlot& slot, void* destination, int64_t generation) {
  auto transfer =
      begin(slot, BlockRequest::Kind::kRead, static_cast<char*>(destination), generation);
  lane(slot.state_->folder, transfer->kind).push(transfer);
  return DiskOperation(std::move(transfer));
}

int64_t DiskTier::read_bytes() const {
  int64_t bytes = 0;
  for (const auto& folder : folders_) bytes += folder->reads->moved_bytes();
  return bytes;
}

int64_t DiskTier::written_bytes() const {
  int64_t bytes = 0;
  for (const auto& folder : folders_) bytes += folder->writes->moved_bytes();
  return bytes;
}

std::string DiskTier::description() const {
  const bool direct = std::all_of(folders_.begin(), folders_.end(),
                                  [](const auto& folder) { return folder->place.file().direct(); });
  return std::string(name_of(backend_.backend)) +
         (direct ? ", direct" : ", through the page cache") +
         (backend_.reason.empty() ? "" : " (" + backend_.reason + ")");
}

}  // namespace hetmem
