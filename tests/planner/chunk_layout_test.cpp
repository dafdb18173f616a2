#include "planner/chunk_layout.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "tests/planner/random_trace.h"

namespace hetmem {
namespace {

struct Family {
  const char* name;
  int64_t parameters;  // as published, of the tensors that count
  std::vector<LayoutTensor> tensors;
};

LayoutTensor matrix(int64_t rows, int64_t columns) { return {rows, columns, false, true}; }
LayoutTensor vector_of(int64_t elements) { return {1, elements, false, true}; }
LayoutTensor table(int64_t rows, int64_t columns) { return {rows, columns, true, true}; }

Family gpt2() {
  Family family{"GPT-2 124M", 124439808, {table(50257, 768), matrix(1024, 768)}};
  const auto add = [&](const LayoutTensor& tensor) { family.tensors.push_back(tensor); };
  const auto norm = [&] {
    add(vector_of(768));
    add(vector_of(768));
  };
  const auto linear = [&](int64_t in, int64_t out) {
    add(matrix(in, out));
    add(vector_of(out));
  };
  for (int layer = 0; layer < 12; ++layer) {
    norm();
    linear(768, 2304);
    linear(768, 768);
    norm();
    linear(768, 3072);
    linear(3072, 768);
  }
  norm();
  return family;
}

struct LlamaShape {
  int64_t vocabulary, width, inner, layers, heads, kv_heads, head_dim;
  bool tied = false;
  bool qkv_bias = false;
  bool qk_norm = false;
};

Family llama(const char* name, int64_t parameters, const LlamaShape& shape) {
  Family family{name, parameters, {table(shape.vocabulary, shape.width)}};
  const auto add = [&](const LayoutTensor& tensor) { family.tensors.push_back(tensor); };
  const int64_t q = shape.heads * shape.head_dim;
  const int64_t kv = shape.kv_heads * shape.head_dim;
  for (int64_t layer = 0; layer < shape.layers; ++layer) {
    add(vector_of(shape.width));
    for (const int64_t rows : {q, kv, kv}) {
      add(matrix(rows, shape.width));
      if (shape.qkv_bias) add(vector_of(rows));
    }
    if (shape.qk_norm) add(vector_of(shape.head_dim));
    if (shape.qk_norm) add(vector_of(shape.head_dim));
    add(matrix(shape.width, q));
    add(vector_of(shape.width));
    add(matrix(shape.inner, shape.width));
    add(matrix(shape.inner, shape.width));
    add(matrix(shape.width, shape.inner));
  }
  add(vector_of(shape.width));
  if (!shape.tied) add(table(shape.vocabulary, shape.width));
  return family;
}

// Counts of parameters as the model cards and safetensors headers give them.
std::vector<Family> families() {
  return {gpt2(),
          llama("SmolLM2-135M", 134515008, {49152, 576, 1536, 30, 9, 3, 64, true}),
          llama("Qwen2.5-0.5B", 494032768, {151936, 896, 4864, 24, 14, 2, 64, true, true}),
          llama("Qwen3-0.6B", 596049920, {151936, 1024, 3072, 28, 16, 8, 128, true, false, true}),
          llama("Llama-3 8B", 8030261248, {128256, 4096, 14336, 32, 32, 8, 128}),
          llama("Llama-3 70B", 70553706496, {128256, 8192, 28672, 80, 64, 8, 128})};
}

int64_t elements_of(const LayoutTensor& tensor) { return tensor.rows * tensor.row_elements; }

int kind_of(const LayoutTensor& tensor) {
  return (tensor.table ? 2 : tensor.rows == 1 ? 1 : 0) * 2 + (tensor.trained ? 1 : 0);
}

// Each row of each tensor is in exactly one piece, pieces of a chunk neither overlap nor stick out,
// and the two ways of looking a piece up agree.
void expect_right(const std::vector<LayoutTensor>& tensors, const ChunkLayout& layout,
                  int64_t alignment = kPieceAlignment) {
  std::vector<int64_t> next_row(tensors.size(), 0);
  for (const ChunkShape& chunk : layout.chunks) {
    ASSERT_FALSE(chunk.pieces.empty());
    int64_t end = 0;
    for (const ChunkPiece& piece : chunk.pieces) {
      const LayoutTensor& tensor = tensors[static_cast<size_t>(piece.tensor)];
      EXPECT_EQ(piece.elements, piece.rows * tensor.row_elements);
      EXPECT_EQ(piece.first_row, next_row[static_cast<size_t>(piece.tensor)]);
      next_row[static_cast<size_t>(piece.tensor)] += piece.rows;
      EXPECT_GE(piece.offset, end);
      EXPECT_EQ(piece.offset % alignment, 0);
      end = piece.offset + piece.elements;
      EXPECT_EQ(tensor.trained, chunk.trained);
      EXPECT_EQ(kind_of(tensor), kind_of(tensors[static_cast<size_t>(chunk.pieces[0].tensor)]));
    }
    EXPECT_GE(chunk.elements, end);
    EXPECT_LT(chunk.elements - end, alignment);
  }
  ASSERT_EQ(layout.pieces.size(), tensors.size());
  for (size_t t = 0; t < tensors.size(); ++t) {
    EXPECT_EQ(next_row[t], tensors[t].rows);
    int64_t row = 0;
    for (const PieceOf& at : layout.pieces[t]) {
      const ChunkPiece& piece = layout.piece(at);
      EXPECT_EQ(piece.tensor, static_cast<int>(t));
      EXPECT_EQ(piece.first_row, row);
      row += piece.rows;
      EXPECT_EQ(piece.rows, std::min(layout.block_rows[t], tensors[t].rows - piece.first_row));
    }
    EXPECT_TRUE(tensors[t].table || layout.pieces[t].size() == 1);
  }
}

// Tensors of one kind come in their order, chunk after chunk.
void expect_in_order(const std::vector<LayoutTensor>& tensors, const ChunkLayout& layout) {
  std::vector<std::pair<int, int64_t>> last(6, {-1, -1});
  for (const ChunkShape& chunk : layout.chunks) {
    for (const ChunkPiece& piece : chunk.pieces) {
      const int kind = kind_of(tensors[static_cast<size_t>(piece.tensor)]);
      const std::pair<int, int64_t> here{piece.tensor, piece.first_row};
      EXPECT_LT(last[static_cast<size_t>(kind)], here);
      last[static_cast<size_t>(kind)] = here;
    }
  }
}

TEST(ChunkLayout, HoldsEveryElementOfTheRealModelsOnce) {
  for (const Family& family : families()) {
    SCOPED_TRACE(family.name);
    int64_t sum = 0;
    for (const LayoutTensor& tensor : family.tensors) sum += elements_of(tensor);
    EXPECT_EQ(sum, family.parameters);
    const ChunkLayout layout = layout_chunks(family.tensors);
    expect_right(family.tensors, layout);
    expect_in_order(family.tensors, layout);
    int64_t taken = 0;
    for (const ChunkShape& chunk : layout.chunks) taken += chunk.elements;
    EXPECT_DOUBLE_EQ(layout.waste, 1.0 - static_cast<double>(sum) / static_cast<double>(taken));
    EXPECT_LE(layout.waste, 0.025);
  }
}

// Chunks of the capacity, but for the last of each kind, would waste little, too.
TEST(ChunkLayout, FillsItsChunks) {
  for (const Family& family : families()) {
    SCOPED_TRACE(family.name);
    const ChunkLayout layout = layout_chunks(family.tensors);
    int64_t largest = 0;
    for (const ChunkShape& chunk : layout.chunks) largest = std::max(largest, chunk.elements);
    EXPECT_LE(largest, layout.capacity + kPieceAlignment);
    int64_t largest_tensor = 0;
    for (const LayoutTensor& tensor : family.tensors) {
      if (!tensor.table) largest_tensor = std::max(largest_tensor, elements_of(tensor));
    }
    // 16 MiB, or the largest matrix.
    EXPECT_LE(layout.capacity, std::max<int64_t>(int64_t{4} << 20, largest_tensor));
  }
}

TEST(ChunkLayout, KeepsFrozenTensorsApart) {
  for (Family& family : families()) {
    SCOPED_TRACE(family.name);
    for (size_t i = 0; i < family.tensors.size() / 2; ++i) family.tensors[i].trained = false;
    const ChunkLayout layout = layout_chunks(family.tensors);
    expect_right(family.tensors, layout);
    const auto trained = [](const ChunkShape& chunk) { return chunk.trained; };
    EXPECT_TRUE(std::any_of(layout.chunks.begin(), layout.chunks.end(), trained));
    EXPECT_FALSE(std::all_of(layout.chunks.begin(), layout.chunks.end(), trained));
  }
}

TEST(ChunkLayout, IsRightForRandomTensors) {
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    std::vector<LayoutTensor> tensors;
    for (int64_t count = random.between(1, 40); count > 0; --count) {
      LayoutTensor tensor;
      tensor.table = random.chance(10);
      tensor.rows = random.chance(40) ? 1 : random.between(1, tensor.table ? 5000 : 300);
      tensor.row_elements = random.between(1, 300);
      tensor.trained = !random.chance(20);
      tensors.push_back(tensor);
    }
    const ChunkLayout layout = layout_chunks(tensors);
    expect_right(tensors, layout);
    expect_in_order(tensors, layout);
    const ChunkLayout again = layout_chunks(tensors);
    EXPECT_EQ(again.capacity, layout.capacity);
    EXPECT_EQ(again.block_rows, layout.block_rows);
    // With moments in 8 bits every piece begins with a record, in its chunk and in its tensor.
    const ChunkLayout coded = layout_chunks(tensors, DType::kUint8);
    expect_right(tensors, coded, kMomentBlock);
    expect_in_order(tensors, coded);
    for (const ChunkShape& chunk : coded.chunks) {
      EXPECT_EQ(chunk.elements % kMomentBlock, 0);  // pages of it hold whole records
      for (const ChunkPiece& piece : chunk.pieces) {
        const auto tensor = static_cast<size_t>(piece.tensor);
        EXPECT_EQ(piece.first_row * tensors[tensor].row_elements % kMomentBlock, 0);
      }
    }
  }
}

// AdamW keeps 8 bytes for each weight; in 8 bits 2, and 4 for the scale of 256 of each.
TEST(ChunkLayout, MomentsIn8BitsTakeAQuarter) {
  for (const Family& family : families()) {
    SCOPED_TRACE(family.name);
    int64_t bytes = 0;
    for (const ChunkShape& chunk : layout_chunks(family.tensors, DType::kUint8).chunks) {
      bytes += chunk.list_bytes() + chunk.moment_bytes({2, DType::kUint8});
    }
    // Weights, split or not, and moments.
    EXPECT_LE(static_cast<double>(bytes) / static_cast<double>(family.parameters), 6.2);
    EXPECT_GE(static_cast<double>(bytes) / static_cast<double>(family.parameters), 6.03);
  }
}

}  // namespace
}  // namespace hetmem
