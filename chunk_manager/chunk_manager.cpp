#include "chunk_manager/chunk_manager.h"

#include <algorithm>
#include <utility>

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
  if (manager_ != nullptr) --manager_->homes_[static_cast<size_t>(chunk_)].pins;
  manager_ = nullptr;
}

ChunkManager::ChunkManager(const ChunkLayout& layout, int moments, Tier& device, Tier& host,
                           TransferEngine& transfers)
    : layout_(layout), moments_(moments), device_(device), host_(host), transfers_(transfers) {
  HETMEM_ASSERT(moments >= 0 && moments <= 2);
}

int64_t ChunkManager::list_bytes(int chunk) const {
  return shape(chunk).elements * static_cast<int64_t>(sizeof(float));
}

const std::vector<bool> ChunkManager::residents() const {
  std::vector<bool> resident;
  for (const Home& home : homes_) resident.push_back(home.on_device);
  return resident;
}

BytesByKind ChunkManager::bytes_of(int chunk, bool on_device) const {
  const bool trained = shape(chunk).trained;
  BytesByKind bytes{};
  bytes[static_cast<size_t>(MemoryKind::kWeights)] = list_bytes(chunk);
  if (trained) {
    bytes[static_cast<size_t>(MemoryKind::kOptimizer)] = list_bytes(chunk) * moments_;
    if (!on_device && moments_ > 0) {
      bytes[static_cast<size_t>(MemoryKind::kGradients)] = list_bytes(chunk);
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

void ChunkManager::place(const std::vector<bool>& resident) {
  const int count = static_cast<int>(layout_.chunks.size());
  HETMEM_ASSERT(resident.size() == layout_.chunks.size());
  if (homes_.empty()) {
    std::vector<Home> homes;
    for (int c = 0; c < count; ++c) {
      const bool on_device = resident[static_cast<size_t>(c)];
      homes.push_back({allocate(c, on_device), on_device, 0});
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
  const int64_t bytes = list_bytes(chunk) * (shape(chunk).trained ? 1 + moments_ : 1);
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
  return home(chunk).buffer.view(static_cast<int64_t>(list) * list_bytes(chunk), DType::kFloat32,
                                 Shape{shape(chunk).elements});
}

TensorView ChunkManager::waiting_gradient(int chunk) const {
  HETMEM_ASSERT(!resident(chunk) && shape(chunk).trained);
  return home(chunk).buffer.view((1 + moments_) * list_bytes(chunk), DType::kFloat32,
                                 Shape{shape(chunk).elements});
}

ChunkPin ChunkManager::pin(int chunk) {
  ++homes_[static_cast<size_t>(chunk)].pins;
  return {this, chunk};
}

void ChunkManager::read(ChunkList list, int tensor, const Sink& sink) {
  std::vector<float> block;
  for (const PieceOf& at : layout_.pieces[static_cast<size_t>(tensor)]) {
    const ChunkPin pinned = pin(at.chunk);
    const ChunkPiece& piece = layout_.piece(at);
    const float* data = whole(list, at.chunk).as<float>() + piece.offset;
    for (int64_t first = 0; first < piece.elements; first += kBlock) {
      const int64_t count = std::min(kBlock, piece.elements - first);
      if (!resident(at.chunk)) {
        sink(data + first, count);
        continue;
      }
      block.resize(static_cast<size_t>(kBlock));
      transfers_.copy_to_host(block.data(), data + first,
                              count * static_cast<int64_t>(sizeof(float)));
      sink(block.data(), count);
    }
  }
}

void ChunkManager::write(ChunkList list, int tensor, const Source& source) {
  std::vector<float> block;
  int64_t done = 0;
  for (const PieceOf& at : layout_.pieces[static_cast<size_t>(tensor)]) {
    const ChunkPin pinned = pin(at.chunk);
    const ChunkPiece& piece = layout_.piece(at);
    float* data = whole(list, at.chunk).as<float>() + piece.offset;
    for (int64_t first = 0; first < piece.elements; first += kBlock) {
      const int64_t count = std::min(kBlock, piece.elements - first);
      if (resident(at.chunk)) {
        block.resize(static_cast<size_t>(kBlock));
        source(block.data(), done, count);
        transfers_.copy_to_device(data + first, block.data(),
                                  count * static_cast<int64_t>(sizeof(float)));
      } else {
        source(data + first, done, count);
      }
      done += count;
    }
  }
}

}  // namespace hetmem
