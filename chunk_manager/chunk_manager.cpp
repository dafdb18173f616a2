#include "chunk_manager/chunk_manager.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "chunk_manager/chunk_snapshot.h"
#include "core/error.h"
#include "core/split_master.h"

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
  if (manager_ != nullptr) --manager_->homes_[static_cast<size_t>(chunk_)].pins;
  manager_ = nullptr;
}

ChunkManager::ChunkManager(const ChunkLayout& layout, int moments, Tier& device, Tier& host,
                           TransferEngine& transfers)
    : layout_(layout), moments_(moments), device_(device), host_(host), transfers_(transfers) {
  HETMEM_ASSERT(moments >= 0 && moments <= 2);
}

const std::vector<bool> ChunkManager::residents() const {
  std::vector<bool> resident;
  for (const Home& home : homes_) resident.push_back(home.on_device);
  return resident;
}

BytesByKind ChunkManager::bytes_of(int chunk, bool on_device) const {
  const bool trained = shape(chunk).trained;
  BytesByKind bytes{};
  bytes[static_cast<size_t>(MemoryKind::kWeights)] = shape(chunk).weight_bytes();
  bytes[static_cast<size_t>(MemoryKind::kOptimizer)] = shape(chunk).low_bytes();
  if (trained) {
    bytes[static_cast<size_t>(MemoryKind::kOptimizer)] += shape(chunk).list_bytes() * moments_;
    if (!on_device && moments_ > 0) {
      bytes[static_cast<size_t>(MemoryKind::kGradients)] = shape(chunk).list_bytes();
    }
  }
  return bytes;
}

Buffer ChunkManager::allocate(int chunk, bool on_device) {
  Buffer buffer(on_device ? device_ : host_, bytes_of(chunk, on_device),
                on_device ? MemorySpace::kDevice : MemorySpace::kHost);
  buffer.populate();
  return buffer;
}

void ChunkManager::place(const std::vector<bool>& resident, const std::vector<bool>& twins) {
  if (snapshot_ != nullptr) snapshot_->wait();
  const auto wanted = [&](int c) { return !twins.empty() && twins[static_cast<size_t>(c)]; };
  for (int c = 0; c < static_cast<int>(homes_.size()); ++c) {
    if (!wanted(c) || resident[static_cast<size_t>(c)]) drop_twin(c);
  }
  place_homes(resident);
  for (int c = 0; c < static_cast<int>(homes_.size()); ++c) {
    if (wanted(c)) make_twin(c);
  }
}

void ChunkManager::drop_twin(int chunk) {
  Home& at = homes_[static_cast<size_t>(chunk)];
  if (at.flipped) {
    HETMEM_ASSERT(at.spare.data() != nullptr);
    std::memcpy(at.buffer.data(), at.spare.data(), static_cast<size_t>(at.spare.bytes()));
  }
  at.flipped = false;
  at.spare = Buffer();
}

void ChunkManager::make_twin(int chunk) {
  Home& at = homes_[static_cast<size_t>(chunk)];
  HETMEM_ASSERT(!at.on_device && shape(chunk).trained);
  if (at.spare.bytes() > 0) return;
  BytesByKind bytes = bytes_of(chunk, false);
  bytes[static_cast<size_t>(MemoryKind::kGradients)] = 0;
  at.spare = Buffer(host_, bytes, MemorySpace::kHost);
  at.spare.populate();
}

void ChunkManager::flip(int chunk) {
  Home& at = homes_[static_cast<size_t>(chunk)];
  HETMEM_ASSERT(at.spare.bytes() > 0);
  at.flipped = !at.flipped;
}

void ChunkManager::place_homes(const std::vector<bool>& resident) {
  const int count = static_cast<int>(layout_.chunks.size());
  HETMEM_ASSERT(resident.size() == layout_.chunks.size());
  if (homes_.empty()) {
    std::vector<Home> homes;
    for (int c = 0; c < count; ++c) {
      const bool on_device = resident[static_cast<size_t>(c)];
      homes.push_back({allocate(c, on_device), on_device, 0, {}, false});
    }
    homes_ = std::move(homes);
    return;
  }
  // Whoever finds room goes first: what leaves one tier makes room there for another.
  std::vector<int> pending;
  for (int c = 0; c < count; ++c) {
    if (resident[static_cast<size_t>(c)] != home(c).on_device) pending.push_back(c);
  }
  while (!pending.empty()) {
    auto next = std::find_if(pending.begin(), pending.end(), [&](int c) {
      const Tier& to = resident[static_cast<size_t>(c)] ? device_ : host_;
      return total(bytes_of(c, resident[static_cast<size_t>(c)])) <= to.budget() - to.used();
    });
    if (next == pending.end()) next = pending.begin();  // says what is missing
    move(*next, resident[static_cast<size_t>(*next)]);
    pending.erase(next);
  }
}

void ChunkManager::move(int chunk, bool to_device) {
  Home& from = homes_[static_cast<size_t>(chunk)];
  if (from.pins > 0) {
    throw Error(ErrorKind::kInternal, "chunk " + std::to_string(chunk) + " is pinned by " +
                                          std::to_string(from.pins) + " users and cannot move");
  }
  Buffer there = allocate(chunk, to_device);
  const int64_t bytes = state_bytes(chunk);
  if (to_device) {
    transfers_.copy_to_device(there.data(), from.buffer.data(), bytes);
  } else {
    transfers_.copy_to_host(there.data(), from.buffer.data(), bytes);
  }
  from.buffer = std::move(there);
  from.on_device = to_device;
}

TensorView ChunkManager::whole(ChunkList list, int chunk) const {
  HETMEM_ASSERT(list == ChunkList::kWeights ||
                (shape(chunk).trained && static_cast<int>(list) <= moments_));
  return list_view(home(chunk).state(), list, chunk);
}

TensorView ChunkManager::low(int chunk) const { return low_view(home(chunk).state(), chunk); }

TensorView ChunkManager::twin(ChunkList list, int chunk) const {
  HETMEM_ASSERT(static_cast<int>(list) <= moments_);
  return list_view(home(chunk).twin(), list, chunk);
}

TensorView ChunkManager::twin_low(int chunk) const { return low_view(home(chunk).twin(), chunk); }

TensorView ChunkManager::list_view(const Buffer& buffer, ChunkList list, int chunk) const {
  const bool split = list == ChunkList::kWeights && shape(chunk).split;
  return buffer.view(static_cast<int64_t>(list) * shape(chunk).list_bytes(),
                     split ? DType::kBFloat16 : DType::kFloat32, Shape{shape(chunk).elements});
}

TensorView ChunkManager::low_view(const Buffer& buffer, int chunk) const {
  HETMEM_ASSERT(shape(chunk).split);
  return buffer.view(shape(chunk).weight_bytes(), DType::kInt16, Shape{shape(chunk).elements});
}

TensorView ChunkManager::waiting_gradient(int chunk) const {
  HETMEM_ASSERT(!resident(chunk) && shape(chunk).trained);
  return home(chunk).buffer.view((1 + moments_) * shape(chunk).list_bytes(), DType::kFloat32,
                                 Shape{shape(chunk).elements});
}

int64_t ChunkManager::state_bytes(int chunk) const {
  return shape(chunk).list_bytes() * lists(chunk);
}

void ChunkManager::before_change(int chunk, Stream& stream) {
  if (snapshot_ != nullptr) snapshot_->before_change(chunk, stream);
}

ChunkPin ChunkManager::pin(int chunk) {
  ++homes_[static_cast<size_t>(chunk)].pins;
  return {this, chunk};
}

void ChunkManager::copy_out(const TensorView& from, int64_t first, int64_t count, void* to) const {
  const int64_t size = size_of(from.dtype);
  const char* source = static_cast<const char*>(from.data) + first * size;
  if (from.space == MemorySpace::kDevice) {
    transfers_.copy_to_host(to, source, count * size);
  } else {
    std::memcpy(to, source, static_cast<size_t>(count * size));
  }
}

void ChunkManager::copy_in(const TensorView& to, int64_t first, int64_t count, const void* from) {
  const int64_t size = size_of(to.dtype);
  char* destination = static_cast<char*>(to.data) + first * size;
  if (to.space == MemorySpace::kDevice) {
    transfers_.copy_to_device(destination, from, count * size);
  } else {
    std::memcpy(destination, from, static_cast<size_t>(count * size));
  }
}

void ChunkManager::read_halves(int chunk, int64_t first, int64_t count, float* to) const {
  std::vector<uint16_t> high(static_cast<size_t>(count));
  std::vector<int16_t> lower(static_cast<size_t>(count));
  copy_out(whole(ChunkList::kWeights, chunk), first, count, high.data());
  copy_out(low(chunk), first, count, lower.data());
  for (size_t i = 0; i < high.size(); ++i) to[i] = join_master(high[i], lower[i]);
}

void ChunkManager::write_halves(int chunk, int64_t first, int64_t count, const float* from) {
  std::vector<uint16_t> high;
  std::vector<int16_t> lower;
  for (int64_t i = 0; i < count; ++i) {
    const SplitMaster halves = split_master(from[i]);
    high.push_back(halves.hi);
    lower.push_back(halves.lo);
  }
  copy_in(whole(ChunkList::kWeights, chunk), first, count, high.data());
  copy_in(low(chunk), first, count, lower.data());
}

void ChunkManager::read(ChunkList list, int tensor, const Sink& sink) {
  std::vector<float> block;
  for (const PieceOf& at : layout_.pieces[static_cast<size_t>(tensor)]) {
    const ChunkPin pinned = pin(at.chunk);
    const ChunkPiece& piece = layout_.piece(at);
    const TensorView from = whole(list, at.chunk);
    const bool split = from.dtype == DType::kBFloat16;
    for (int64_t first = 0; first < piece.elements; first += kBlock) {
      const int64_t count = std::min(kBlock, piece.elements - first);
      if (!split && from.space == MemorySpace::kHost) {
        sink(from.as<float>() + piece.offset + first, count);
        continue;
      }
      block.resize(static_cast<size_t>(kBlock));
      if (split) {
        read_halves(at.chunk, piece.offset + first, count, block.data());
      } else {
        copy_out(from, piece.offset + first, count, block.data());
      }
      sink(block.data(), count);
    }
  }
}

void ChunkManager::write(ChunkList list, int tensor, const Source& source) {
  if (snapshot_ != nullptr) snapshot_->wait();
  std::vector<float> block;
  int64_t done = 0;
  for (const PieceOf& at : layout_.pieces[static_cast<size_t>(tensor)]) {
    const ChunkPin pinned = pin(at.chunk);
    const ChunkPiece& piece = layout_.piece(at);
    const TensorView to = whole(list, at.chunk);
    const bool split = to.dtype == DType::kBFloat16;
    for (int64_t first = 0; first < piece.elements; first += kBlock) {
      const int64_t count = std::min(kBlock, piece.elements - first);
      if (!split && to.space == MemorySpace::kHost) {
        source(to.as<float>() + piece.offset + first, done, count);
      } else {
        block.resize(static_cast<size_t>(kBlock));
        source(block.data(), done, count);
        if (split) {
          write_halves(at.chunk, piece.offset + first, count, block.data());
        } else {
          copy_in(to, piece.offset + first, count, block.data());
        }
      }
      done += count;
    }
  }
}

}  // namespace hetmem
