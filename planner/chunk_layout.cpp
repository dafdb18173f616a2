#include "planner/chunk_layout.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <set>

#include "core/error.h"

namespace hetmem {
namespace {

// A chunk is large enough for copies at full speed and small enough that one more on its way does
// not matter: as large as the largest matrix, else up to 16 MiB of fp32 and a part of the model.
constexpr int64_t kLargeEnough = int64_t{4} << 20;
constexpr int64_t kFewestChunks = 32;

// Elements that pieces are rounded up to, and the fewest rows that a piece of a table may have.
struct Alignment {
  explicit Alignment(DType moments) : block(moments == DType::kUint8 ? kMomentBlock : 1) {}

  int64_t aligned(int64_t elements, bool split) const {
    const int64_t unit = std::max(block, split ? kSplitPieceAlignment : kPieceAlignment);
    return (elements + unit - 1) / unit * unit;
  }
  int64_t fewest_rows(const LayoutTensor& tensor) const {
    return std::clamp<int64_t>(block / std::gcd(block, tensor.row_elements), 1,
                               std::max<int64_t>(1, tensor.rows));
  }
  int64_t block;  // pieces begin with one
};

int64_t elements_of(const LayoutTensor& tensor) { return tensor.rows * tensor.row_elements; }
bool is_vector(const LayoutTensor& tensor) { return tensor.rows == 1; }

int64_t block_rows_of(const LayoutTensor& tensor, int64_t capacity, const Alignment& alignment) {
  if (!tensor.table) return tensor.rows;
  const int64_t rows = capacity / std::max<int64_t>(1, tensor.row_elements);
  const int64_t fewest = alignment.fewest_rows(tensor);
  // Whole lines of logits where there are enough.
  const int64_t unit = rows < kPieceAlignment ? fewest : std::max(kPieceAlignment, fewest);
  return std::min(std::max(rows - rows % unit, fewest), tensor.rows);
}

// Fills chunks of one capacity, in order; one open chunk for each class of tensors.
ChunkLayout fill(const std::vector<LayoutTensor>& tensors, int64_t capacity,
                 const Alignment& alignment) {
  ChunkLayout layout;
  layout.capacity = capacity;
  layout.pieces.resize(tensors.size());
  std::array<int, 12> open;
  open.fill(-1);
  for (size_t i = 0; i < tensors.size(); ++i) {
    const LayoutTensor& tensor = tensors[i];
    const int64_t block = block_rows_of(tensor, capacity, alignment);
    layout.block_rows.push_back(block);
    const size_t kind = tensor.table ? 2 : is_vector(tensor) ? 1 : 0;
    int& current = open[kind * 4 + (tensor.trained ? 2 : 0) + (tensor.split ? 1 : 0)];
    for (int64_t row = 0; row < tensor.rows; row += block) {
      const int64_t rows = std::min(block, tensor.rows - row);
      const int64_t elements = rows * tensor.row_elements;
      if (current < 0 ||
          layout.chunks[static_cast<size_t>(current)].elements + elements > capacity) {
        current = static_cast<int>(layout.chunks.size());
        layout.chunks.push_back({});
        layout.chunks.back().trained = tensor.trained;
        layout.chunks.back().split = tensor.split;
      }
      ChunkShape& chunk = layout.chunks[static_cast<size_t>(current)];
      layout.pieces[i].push_back({current, static_cast<int>(chunk.pieces.size())});
      chunk.pieces.push_back({static_cast<int>(i), row, rows, chunk.elements, elements});
      chunk.elements = alignment.aligned(chunk.elements + elements, chunk.split);
    }
  }
  return layout;
}

// What chunks of the full capacity would leave unused; vectors are too small to count.
int64_t unused(const ChunkLayout& layout, const std::vector<LayoutTensor>& tensors) {
  int64_t sum = 0;
  for (const ChunkShape& chunk : layout.chunks) {
    if (is_vector(tensors[static_cast<size_t>(chunk.pieces.front().tensor)])) continue;
    sum += layout.capacity - std::min(layout.capacity, chunk.elements);
  }
  return sum;
}

// Capacities worth a try: what consecutive matrices take together.
std::set<int64_t> candidates(const std::vector<LayoutTensor>& tensors, const Alignment& alignment) {
  int64_t largest = 1;
  int64_t all = 0;
  for (const LayoutTensor& tensor : tensors) {
    all += elements_of(tensor);
    const int64_t rows = tensor.table ? alignment.fewest_rows(tensor) : tensor.rows;
    largest = std::max(largest, alignment.aligned(rows * tensor.row_elements, tensor.split));
  }
  const int64_t most = std::max(largest, std::min(kLargeEnough, all / kFewestChunks));
  std::set<int64_t> found{largest};
  constexpr size_t kStarts = 64;  // layers repeat: more starts give the same sums again
  for (size_t start = 0, used = 0; start < tensors.size() && used < kStarts; ++start) {
    if (tensors[start].table || is_vector(tensors[start])) continue;
    ++used;
    int64_t sum = 0;
    for (size_t i = start; i < tensors.size(); ++i) {
      if (tensors[i].table || is_vector(tensors[i])) continue;
      sum += alignment.aligned(elements_of(tensors[i]), tensors[i].split);
      if (sum > most) break;
      if (sum >= largest) found.insert(sum);
    }
  }
  return found;
}

}  // namespace

int64_t ChunkShape::moment_bytes(const MomentLists& moments) const {
  constexpr int64_t kLine = 64;
  if (!trained) return 0;
  return (hetmem::list_bytes(moments.dtype, elements) + kLine - 1) / kLine * kLine * moments.count;
}

ChunkLayout layout_chunks(const std::vector<LayoutTensor>& tensors, DType moments) {
  HETMEM_ASSERT(!tensors.empty());
  const Alignment alignment(moments);
  ChunkLayout best;
  int64_t least = -1;
  for (const int64_t capacity : candidates(tensors, alignment)) {
    ChunkLayout layout = fill(tensors, capacity, alignment);
    const int64_t left = unused(layout, tensors);
    if (least >= 0 && left > least) continue;  // of equals the largest
    least = left;
    best = std::move(layout);
  }
  int64_t held = 0;
  int64_t taken = 0;
  for (const LayoutTensor& tensor : tensors) held += elements_of(tensor);
  for (const ChunkShape& chunk : best.chunks) taken += chunk.elements;
  best.waste = 1.0 - static_cast<double>(held) / static_cast<double>(std::max<int64_t>(1, taken));
  return best;
}

}  // namespace hetmem
