// Chunk layout: which tensors share a chunk. The same layout holds for weights, gradients and
// optimizer state: a tensor is at the same place in chunk k of each list (PatrickStar, section 6).
//
// Chunks are filled in the order of first use. Matrices, tables (whose ops take them in blocks of
// whole rows) and vectors (norm weights, biases: small, and needed all the time) fill chunks of
// their own, and so do frozen tensors, and those whose weights are split. A chunk takes the memory
// of what it holds; the capacity, chosen for the least unused, limits how much that is. The layout
// depends on the tensors and their moments alone, never on budgets: blocks of rows decide how sums
// over a table are cut, so results depend on them. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/moments.h"

namespace hetmem {

struct LayoutTensor {
  int64_t rows = 0;
  int64_t row_elements = 0;
  bool table = false;  // its ops take it in blocks of whole rows
  bool trained = true;
  bool split = false;  // its weights are kept as hi and lo (core/split_master.h)
};

// Rows [first_row, first_row + rows) of a tensor, at an offset in elements in its chunk.
struct ChunkPiece {
  int tensor = 0;
  int64_t first_row = 0;
  int64_t rows = 0;
  int64_t offset = 0;
  int64_t elements = 0;
};

struct ChunkShape {
  std::vector<ChunkPiece> pieces;
  int64_t elements = 0;  // to the end of the last piece, aligned
  bool trained = true;
  bool split = false;

  // Of one list: gradients, moments, or fp32 weights.
  int64_t list_bytes() const { return elements * 4; }
  // What ops read of the weights, and what only the optimizer needs of them.
  int64_t weight_bytes() const { return split ? elements * 2 : list_bytes(); }
  int64_t low_bytes() const { return list_bytes() - weight_bytes(); }
  // What the optimizer keeps, list by list in whole lines of 64 bytes.
  int64_t moment_bytes(const MomentLists& moments) const;
};

// Where one piece is.
struct PieceOf {
  int chunk = 0;
  int piece = 0;
};

struct ChunkLayout {
  int64_t capacity = 0;  // elements
  std::vector<ChunkShape> chunks;
  std::vector<std::vector<PieceOf>> pieces;  // by tensor, by row
  // The rows that a whole piece of a tensor has (all of them where it is in one piece).
  std::vector<int64_t> block_rows;
  double waste = 0;  // the share of the chunks' memory that no tensor uses

  const ChunkPiece& piece(const PieceOf& at) const {
    return chunks[static_cast<size_t>(at.chunk)].pieces[static_cast<size_t>(at.piece)];
  }
};

// Elements to which pieces are aligned: 64 bytes of fp32, and of bf16.
constexpr int64_t kPieceAlignment = 16;
constexpr int64_t kSplitPieceAlignment = 32;

// `moments`: of those in 8 bits every piece begins with a record, in its chunk and in its tensor.
ChunkLayout layout_chunks(const std::vector<LayoutTensor>& tensors,
                          DType moments = DType::kFloat32);

}  // namespace hetmem
