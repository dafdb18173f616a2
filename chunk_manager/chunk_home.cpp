#include "chunk_manager/chunk_home.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"

namespace hetmem {
namespace {

const char* name_of(ChunkList list) {
  switch (list) {
    case ChunkList::kWeights:
      return "weights";
    case ChunkList::kFirstMoment:
      return "first moment";
    case ChunkList::kSecondMoment:
      return "second moment";
    case ChunkList::kLow:
      return "low half of the weights";
    case ChunkList::kGradient:
      break;
  }
  return "gradient";
}

MemoryKind kind_of(ChunkList list) {
  if (list == ChunkList::kWeights) return MemoryKind::kWeights;
  return list == ChunkList::kGradient ? MemoryKind::kGradients : MemoryKind::kOptimizer;
}

// Whether a chunk has a list at such a home: gradients wait where the optimizer is not at once.
bool has_list(const ChunkShape& shape, const MomentLists& moments, bool on_device, ChunkList list) {
  switch (list) {
    case ChunkList::kWeights:
      return true;
    case ChunkList::kLow:
      return shape.split;
    case ChunkList::kFirstMoment:
      return shape.trained && moments.count > 0;
    case ChunkList::kSecondMoment:
      return shape.trained && moments.count > 1;
    case ChunkList::kGradient:
      break;
  }
  return shape.trained && moments.count > 0 && !on_device;
}

bool is_on_disk(const HomeChoice& choice, ChunkList list) {
  if (choice.on_device) return false;
  if (list == ChunkList::kWeights) return choice.places.weights_on_disk;
  return list == ChunkList::kGradient ? choice.places.gradient_on_disk
                                      : choice.places.optimizer_on_disk;
}

DType dtype_of(const ChunkShape& shape, const MomentLists& moments, ChunkList list) {
  switch (list) {
    case ChunkList::kWeights:
      return shape.split ? DType::kBFloat16 : DType::kFloat32;
    case ChunkList::kLow:
      return DType::kInt16;
    case ChunkList::kFirstMoment:
    case ChunkList::kSecondMoment:
      return moments.dtype;
    case ChunkList::kGradient:
      break;
  }
  return DType::kFloat32;
}

// Of a list in memory.
int64_t bytes_of(const ChunkShape& shape, const MomentLists& moments, ChunkList list) {
  switch (list) {
    case ChunkList::kFirstMoment:
    case ChunkList::kSecondMoment:
      return shape.moment_bytes({1, moments.dtype});
    default:
      return list_bytes(dtype_of(shape, moments, list), shape.elements);
  }
}

// Calls visit(list, its place on disk or not) for each list of a chunk.
template <typename Visit>
void for_each_list(const ChunkShape& shape, const MomentLists& moments, const HomeChoice& choice,
                   const Visit& visit) {
  const auto look_at = [&](ChunkList list) {
    if (has_list(shape, moments, choice.on_device, list)) visit(list, is_on_disk(choice, list));
  };
  for (const ChunkList list : kListsOfState) look_at(list);
  look_at(ChunkList::kGradient);
}

// Calls visit(first element, elements) for each page of a list of a chunk.
template <typename Visit>
void for_each_page(const ChunkShape& shape, const Visit& visit) {
  for (int64_t first = 0; first < shape.elements; first += kPageElements) {
    visit(first, std::min(kPageElements, shape.elements - first));
  }
}

// Of a view of so many elements of a list: of records it is their bytes.
Shape shape_of(DType dtype, int64_t elements) {
  return Shape{dtype == DType::kUint8 ? list_bytes(dtype, elements) : elements};
}

}  // namespace

TensorView part_of_list(const TensorView& list, int64_t first, int64_t count) {
  if (list.data == nullptr) return list;
  return {static_cast<char*>(list.data) + list_bytes(list.dtype, first), list.dtype,
          shape_of(list.dtype, count), list.space};
}

BytesByKind ChunkHome::memory_bytes(const ChunkShape& shape, const MomentLists& moments,
                                    const HomeChoice& choice) {
  BytesByKind bytes{};
  for_each_list(shape, moments, choice, [&](ChunkList list, bool on_disk) {
    if (!on_disk) bytes[static_cast<size_t>(kind_of(list))] += bytes_of(shape, moments, list);
  });
  return bytes;
}

int64_t ChunkHome::disk_bytes(const ChunkShape& shape, const MomentLists& moments,
                              const HomeChoice& choice, const HomeChoice& before) {
  int64_t bytes = 0;
  for_each_list(shape, moments, choice, [&](ChunkList list, bool on_disk) {
    if (!on_disk || is_on_disk(before, list)) return;
    for_each_page(shape, [&](int64_t /*first*/, int64_t count) {
      bytes += DiskTier::stored_bytes(list_bytes(dtype_of(shape, moments, list), count));
    });
  });
  return bytes;
}

ChunkHome::ChunkHome(const ChunkShape& shape, int chunk, const MomentLists& moments,
                     const HomeChoice& choice, const HomeTiers& tiers, const HomeChoice& before)
    : shape_(shape), moments_(moments), choice_(choice) {
  const BytesByKind bytes = memory_bytes(shape, moments, choice);
  state_bytes_ = bytes;
  state_bytes_[static_cast<size_t>(MemoryKind::kGradients)] = 0;
  if (total(bytes) > 0) {
    buffer_ = Buffer(choice.on_device ? tiers.device : tiers.host, bytes,
                     choice.on_device ? MemorySpace::kDevice : MemorySpace::kHost);
    buffer_.populate();
  }
  int64_t at = 0;
  for_each_list(shape, moments, choice, [&](ChunkList list, bool on_disk) {
    if (!on_disk) {
      offsets_[static_cast<size_t>(list)] = at;
      at += bytes_of(shape, moments, list);
      return;
    }
    HETMEM_ASSERT(tiers.disk != nullptr);
    if (is_on_disk(before, list)) return;
    for_each_page(shape, [&](int64_t first, int64_t count) {
      DiskPage page;
      page.first = first;
      page.count = count;
      page.slot = tiers.disk->allocate(std::to_string(chunk) + " (" + name_of(list) + ", page " +
                                           std::to_string(first / kPageElements) + ")",
                                       list_bytes(dtype(list), count), kind_of(list));
      pages(list).push_back(std::move(page));
    });
  });
}

void ChunkHome::take_pages(ChunkHome& before) {
  for_each_list(shape_, moments_, choice_, [&](ChunkList list, bool on_disk) {
    if (on_disk && before.on_disk(list)) pages(list) = std::move(before.pages(list));
  });
}

bool ChunkHome::has(ChunkList list) const {
  return offsets_[static_cast<size_t>(list)] >= 0 || on_disk(list);
}

DType ChunkHome::dtype(ChunkList list) const { return dtype_of(shape_, moments_, list); }

TensorView ChunkHome::memory(ChunkList list) const {
  return view(flipped_ && list != ChunkList::kGradient ? spare_ : buffer_, list);
}

TensorView ChunkHome::twin(ChunkList list) const {
  HETMEM_ASSERT(has_twin() && list != ChunkList::kGradient);
  return view(flipped_ ? buffer_ : spare_, list);
}

TensorView ChunkHome::view(const Buffer& buffer, ChunkList list) const {
  const int64_t offset = offsets_[static_cast<size_t>(list)];
  HETMEM_ASSERT(offset >= 0);
  return buffer.view(offset, dtype(list), shape_of(dtype(list), shape_.elements));
}

void ChunkHome::make_twin(Tier& host) {
  HETMEM_ASSERT(!choice_.on_device && !choice_.places.any_on_disk() && shape_.trained);
  if (has_twin()) return;
  spare_ = Buffer(host, state_bytes_, MemorySpace::kHost);
  spare_.populate();
}

void ChunkHome::drop_twin() {
  if (flipped_) {
    HETMEM_ASSERT(spare_.data() != nullptr);
    std::memcpy(buffer_.data(), spare_.data(), static_cast<size_t>(spare_.bytes()));
  }
  flipped_ = false;
  spare_ = Buffer();
}

void ChunkHome::flip() {
  HETMEM_ASSERT(has_twin());
  flipped_ = !flipped_;
}

}  // namespace hetmem
