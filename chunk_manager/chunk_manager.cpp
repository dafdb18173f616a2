#include "chunk_manager/chunk_manager.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "chunk_manager/chunk_snapshot.h"
#include "core/error.h"

namespace hetmem {

ChunkPin::ChunkPin(ChunkPin&& other) noexcept
    : manager_(std::exchange(other.manager_, nullptr)), chunk_(other.chunk_) {}

ChunkPin& ChunkPin::operator=(ChunkPin&& other) noexcept {
  if (this != &other) {
    release();
    manager_ = std::exchange(other.manager_, nullptr);
    chunk_ = other.chunk_;
  }
  return *this;
}

ChunkPin::~ChunkPin() { release(); }

void ChunkPin::release() {
  if (manager_ != nullptr) --manager_->pins_[static_cast<size_t>(chunk_)];
  manager_ = nullptr;
}

ChunkManager::ChunkManager(const ChunkLayout& layout, const MomentLists& moments, Tier& device,
                           Tier& host, TransferEngine& transfers, DiskTier* disk)
    : layout_(layout),
      moments_(moments),
      tiers_{device, host, disk},
      transfers_(transfers),
      pins_(layout.chunks.size(), 0),
      page_(disk) {
  HETMEM_ASSERT(moments.count >= 0 && moments.count <= 2);
  rooms_.push_back({&host, MemorySpace::kHost});
  // On the processor both tiers are in one memory.
  const bool one_memory = transfers.to_host().kind() == DeviceKind::kCpu;
  if (one_memory) rooms_.push_back({&device, MemorySpace::kDevice});
}

const std::vector<bool> ChunkManager::residents() const {
  std::vector<bool> resident;
  for (const ChunkHome& home : homes_) resident.push_back(home.choice().on_device);
  return resident;
}

void ChunkManager::place(const std::vector<bool>& resident, const std::vector<ChunkPlaces>& places,
                         const std::vector<bool>& twins) {
  if (snapshot_ != nullptr) snapshot_->wait();
  page_.flush();
  HETMEM_ASSERT(resident.size() == layout_.chunks.size());
  HETMEM_ASSERT(places.empty() || places.size() == resident.size());
  std::vector<HomeChoice> choices;
  for (size_t c = 0; c < resident.size(); ++c) {
    const bool anywhere = resident[c] || places.empty();
    choices.push_back({resident[c], anywhere ? ChunkPlaces{} : places[c]});
  }
  const auto wanted = [&](size_t c) { return !twins.empty() && twins[c]; };
  for (size_t c = 0; c < homes_.size(); ++c) {
    if (!wanted(c) || !(homes_[c].choice() == choices[c])) homes_[c].drop_twin();
  }
  place_homes(choices);
  for (size_t c = 0; c < homes_.size(); ++c) {
    if (wanted(c)) homes_[c].make_twin(tiers_.host);
  }
}

void ChunkManager::place_homes(const std::vector<HomeChoice>& choices) {
  const int count = static_cast<int>(layout_.chunks.size());
  const auto choice = [&](int c) -> const HomeChoice& { return choices[static_cast<size_t>(c)]; };
  if (homes_.empty()) {
    std::vector<ChunkHome> homes;
    for (int c = 0; c < count; ++c) {
      homes.emplace_back(shape(c), c, moments_, choice(c), tiers_);
      clear_pages(homes.back());
    }
    homes_ = std::move(homes);
    return;
  }
  // Whoever finds room goes first: what leaves one tier makes room there for another.
  std::vector<int> pending;
  for (int c = 0; c < count; ++c) {
    if (!(choice(c) == home(c).choice())) pending.push_back(c);
  }
  while (!pending.empty()) {
    auto next =
        std::find_if(pending.begin(), pending.end(), [&](int c) { return has_room(c, choice(c)); });
    if (next == pending.end()) {
      if (make_room(pending)) continue;
      next = pending.begin();  // says what is missing
    }
    move(*next, choice(*next));
    pending.erase(next);
  }
}

// Where chunks wait for each other's memory, one of them goes by way of the disk.
bool ChunkManager::make_room(const std::vector<int>& pending) {
  constexpr HomeChoice kOnDisk{false, {true, true, true}};
  if (tiers_.disk == nullptr) return false;
  const auto found = std::find_if(pending.begin(), pending.end(), [&](int c) {
    return !(home(c).choice() == kOnDisk) && has_room(c, kOnDisk);
  });
  if (found == pending.end()) return false;
  move(*found, kOnDisk);
  return true;
}

bool ChunkManager::has_room(int chunk, const HomeChoice& choice) const {
  const Tier& memory = choice.on_device ? tiers_.device : tiers_.host;
  if (total(ChunkHome::memory_bytes(shape(chunk), moments_, choice)) >
      memory.budget() - memory.used()) {
    return false;
  }
  const int64_t disk = ChunkHome::disk_bytes(shape(chunk), moments_, choice, home(chunk).choice());
  return disk == 0 || disk <= tiers_.disk->tier().budget() - tiers_.disk->tier().used();
}

// Moments that nobody has written are zero, as they are in memory. Weights are written before a
// step needs them; until then their pages are zero to whoever opens one.
void ChunkManager::clear_pages(ChunkHome& home) {
  for (const ChunkList list : {ChunkList::kFirstMoment, ChunkList::kSecondMoment}) {
    for (DiskPage& page : home.pages(list)) page_.clear(page);
  }
}

void ChunkManager::move(int chunk, const HomeChoice& choice) {
  if (pins(chunk) > 0) {
    throw Error(ErrorKind::kInternal, "chunk " + std::to_string(chunk) + " is pinned by " +
                                          std::to_string(pins(chunk)) + " users and cannot move");
  }
  ChunkHome& from = homes_[static_cast<size_t>(chunk)];
  ChunkHome to(shape(chunk), chunk, moments_, choice, tiers_, from.choice());
  try {
    for (const ChunkList list : kListsOfState) {  // those that stay on disk have no place yet
      if (from.has(list) && to.has(list)) copy_list(list, chunk, from, to);
    }
    page_.flush();
  } catch (...) {
    page_.discard();  // it may be of the home that goes away
    throw;
  }
  to.take_pages(from);
  from = std::move(to);
}

void ChunkManager::copy_list(ChunkList list, int chunk, ChunkHome& from, ChunkHome& to) {
  const int64_t elements = shape(chunk).elements;
  if (!from.on_disk(list) && from.memory(list).space == MemorySpace::kHost) {
    return copy_in(to, list, 0, elements, from.memory(list).data);
  }
  if (!to.on_disk(list) && to.memory(list).space == MemorySpace::kHost) {
    return copy_out(from, list, 0, elements, to.memory(list).data);
  }
  std::vector<float> block(static_cast<size_t>(kBlock));
  for (int64_t first = 0; first < elements; first += kBlock) {
    const int64_t count = std::min(kBlock, elements - first);
    copy_out(from, list, first, count, block.data());
    copy_in(to, list, first, count, block.data());
  }
}

// Of each: an open page, a block in fp32, and the halves of one.
int64_t ChunkManager::staging_bytes() {
  constexpr int64_t kHalves = kBlock * (sizeof(uint16_t) + sizeof(int16_t));
  constexpr int64_t kUsers = 2;
  return kUsers * (kPageBytes + kBlock * static_cast<int64_t>(sizeof(float)) + kHalves);
}

int64_t ChunkManager::state_bytes(int chunk) const {
  return shape(chunk).list_bytes() + shape(chunk).moment_bytes(moments_);
}

void ChunkManager::before_change(int chunk, Stream& stream) {
  if (snapshot_ == nullptr) return;
  const bool on_disk = home(chunk).on_disk(ChunkList::kWeights);
  const TensorView weights = on_disk ? TensorView{} : whole(ChunkList::kWeights, chunk);
  snapshot_->before_change(chunk, weights, stream);
}

bool ChunkManager::try_before_changing_twin(int chunk, Stream& stream) {
  const TensorView weights = twin(ChunkList::kWeights, chunk);
  return snapshot_ == nullptr || snapshot_->try_before_change(chunk, weights, stream);
}

ChunkPin ChunkManager::pin(int chunk) {
  ++pins_[static_cast<size_t>(chunk)];
  return {this, chunk};
}

void ChunkManager::copy_out(ChunkHome& from, ChunkList list, int64_t first, int64_t count,
                            void* to) {
  if (from.on_disk(list)) return page_.read(from.pages(list), from.dtype(list), first, count, to);
  const TensorView part = part_of_list(from.memory(list), first, count);
  if (part.space == MemorySpace::kDevice) {
    transfers_.copy_to_host(to, part.data, part.bytes());
  } else {
    std::memcpy(to, part.data, static_cast<size_t>(part.bytes()));
  }
}

void ChunkManager::copy_in(ChunkHome& to, ChunkList list, int64_t first, int64_t count,
                           const void* from) {
  if (to.on_disk(list)) return page_.write(to.pages(list), to.dtype(list), first, count, from);
  const TensorView part = part_of_list(to.memory(list), first, count);
  if (part.space == MemorySpace::kDevice) {
    transfers_.copy_to_device(part.data, from, part.bytes());
  } else {
    std::memcpy(part.data, from, static_cast<size_t>(part.bytes()));
  }
}

bool ChunkManager::is_plain(const ChunkHome& home, ChunkList list) const {
  return !home.on_disk(list) && home.dtype(list) != DType::kBFloat16 &&
         home.memory(list).space == MemorySpace::kHost;
}

// Beside a disk they are in staging_bytes().
std::vector<SpareRoom> ChunkManager::rooms_of_blocks() const {
  return tiers_.disk == nullptr ? rooms_ : std::vector<SpareRoom>{};
}

void ChunkManager::make_blocks(ChunkList list, int tensor, ListBlocks& blocks) const {
  int64_t largest = 0;
  bool split = false;
  for (const PieceOf& at : layout_.pieces[static_cast<size_t>(tensor)]) {
    if (is_plain(home(at.chunk), list)) continue;
    largest = std::max(largest, layout_.piece(at).elements);
    split = split || home(at.chunk).dtype(list) == DType::kBFloat16;
  }
  if (largest > 0) blocks.make(rooms_of_blocks(), largest, kBlock, split);
}

void ChunkManager::read_block(ChunkHome& from, ChunkList list, int64_t first, int64_t count,
                              ListBlocks& to) {
  if (from.dtype(list) != DType::kBFloat16) return copy_out(from, list, first, count, to.values());
  copy_out(from, list, first, count, to.high());
  copy_out(from, ChunkList::kLow, first, count, to.low());
  to.join(count);
}

void ChunkManager::write_block(ChunkHome& to, ChunkList list, int64_t first, int64_t count,
                               ListBlocks& from) {
  if (to.dtype(list) != DType::kBFloat16) return copy_in(to, list, first, count, from.values());
  from.split(count);
  copy_in(to, list, first, count, from.high());
  copy_in(to, ChunkList::kLow, first, count, from.low());
}

void ChunkManager::read(ChunkList list, int tensor, const Sink& sink) {
  ListBlocks blocks;
  make_blocks(list, tensor, blocks);
  for (const PieceOf& at : layout_.pieces[static_cast<size_t>(tensor)]) {
    const ChunkPin pinned = pin(at.chunk);
    const ChunkPiece& piece = layout_.piece(at);
    ChunkHome& from = homes_[static_cast<size_t>(at.chunk)];
    HETMEM_ASSERT(from.has(list));
    const bool plain = is_plain(from, list);
    const int64_t most = plain ? kBlock : blocks.elements();
    for (int64_t first = 0; first < piece.elements; first += most) {
      const int64_t count = std::min(most, piece.elements - first);
      const int64_t words = words_of(from.dtype(list), count);
      if (plain) {
        const TensorView part = part_of_list(from.memory(list), piece.offset + first, count);
        sink(static_cast<const float*>(part.data), words);
      } else {
        read_block(from, list, piece.offset + first, count, blocks);
        sink(blocks.values(), words);
      }
    }
  }
  page_.flush();
}

void ChunkManager::write(ChunkList list, int tensor, const Source& source) {
  if (snapshot_ != nullptr) snapshot_->wait();
  ListBlocks blocks;
  make_blocks(list, tensor, blocks);
  int64_t done = 0;
  for (const PieceOf& at : layout_.pieces[static_cast<size_t>(tensor)]) {
    const ChunkPin pinned = pin(at.chunk);
    const ChunkPiece& piece = layout_.piece(at);
    ChunkHome& to = homes_[static_cast<size_t>(at.chunk)];
    HETMEM_ASSERT(to.has(list));
    const bool plain = is_plain(to, list);
    const int64_t most = plain ? kBlock : blocks.elements();
    for (int64_t first = 0; first < piece.elements; first += most) {
      const int64_t count = std::min(most, piece.elements - first);
      const int64_t words = words_of(to.dtype(list), count);
      if (plain) {
        const TensorView part = part_of_list(to.memory(list), piece.offset + first, count);
        source(static_cast<float*>(part.data), done, words);
      } else {
        source(blocks.values(), done, words);
        write_block(to, list, piece.offset + first, count, blocks);
      }
      done += words;
    }
  }
  page_.flush();
}

}  // namespace hetmem
