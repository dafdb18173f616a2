// What the kernels of attention share: operands as rows of heads, and tiles of them in shared
// memory. A block is 16 x 16 threads; of a tile of queries by keys a thread has the queries
// y + 16 i and the keys x + 16 j, of a tile of rows by columns of a head the rows y + 16 i and the
// columns x + 16 c. Included by kernel files only.
#pragma once

#include <cstdint>
#include <vector>

#include "core/error.h"
#include "core/op.h"
#include "ops/cuda/kernel.h"
#include "ops/cuda/philox.h"

namespace hetmem::ops::HETMEM_CUDA_NAMESPACE {

constexpr int kSide = 16;  // threads of a block in either direction
constexpr int kTileThreads = kSide * kSide;

// Tiles of kPer * 16 rows for heads up to kAcross * 16 wide.
template <int kPerThread, int kAcrossThread>
struct TileOf {
  static constexpr int kPer = kPerThread;
  static constexpr int kAcross = kAcrossThread;
  static constexpr int kRows = kSide * kPer;
  static constexpr int kWidth = kSide * kAcross;
  static constexpr int kStride = kWidth + 1;       // odd: rows start in different banks
  static constexpr int kWeightStride = kRows + 1;  // of a tile of queries by keys
  static constexpr int kRowsSize = kRows * kStride;
  static constexpr int kWeightsSize = kRows * kWeightStride;
};

// Calls body(tile) with the tile for heads of this width. Wide heads have shorter tiles, so that
// four of them fit in shared memory.
template <typename Body>
void with_tile(int64_t head_dim, const Body& body) {
  constexpr int64_t kMostHeadDim = 256;
  HETMEM_ASSERT(head_dim > 0 && head_dim <= kMostHeadDim);
  if (head_dim <= 16) return body(TileOf<4, 1>{});
  if (head_dim <= 32) return body(TileOf<4, 2>{});
  if (head_dim <= 64) return body(TileOf<4, 4>{});
  if (head_dim <= 128) return body(TileOf<4, 8>{});
  body(TileOf<2, 16>{});
}

// An operand as rows of heads. Strides in elements.
struct HeadRows {
  float* data;
  int64_t stride;        // from one token to the next
  int64_t head_stride;   // from one head to the next
  int64_t batch_stride;  // from one sequence to the next
  __device__ float* at(int64_t batch, int64_t head, int64_t row) const {
    return data + batch * batch_stride + head * head_stride + row * stride;
  }
};
// Of a view [B, T, heads * D].
inline HeadRows head_rows(const TensorView& view, int64_t head_dim) {
  return {view.as<float>(), view.row_stride, head_dim, view.shape[1] * view.row_stride};
}

// q, k and v (or their gradients) as operands of their own or as columns of one.
struct HeadOperands {
  HeadRows q;
  HeadRows k;
  HeadRows v;
};
inline HeadOperands head_operands(const AttentionParams& params,
                                  const std::vector<TensorView>& operands) {
  const int64_t d = params.head_dim;
  if (!params.packed) {
    return {head_rows(operands[0], d), head_rows(operands[1], d), head_rows(operands[2], d)};
  }
  const int64_t q_width = params.heads * d;
  const int64_t kv_width = params.kv_heads * d;
  return {head_rows(operands[0].columns(0, q_width), d),
          head_rows(operands[0].columns(q_width, kv_width), d),
          head_rows(operands[0].columns(q_width + kv_width, kv_width), d)};
}

// The numbers of a call.
struct AttentionScalars {
  int64_t heads;
  int64_t group;  // query heads that share a key/value head
  int64_t head_dim;
  int64_t time;  // queries of a sequence
  int64_t past;  // keys before the first query: query i sees keys [0, past + i]
  float scale;
  bool drops;
  Dropout draws;
  // What the probability of (query, key) is multiplied with.
  __device__ float keep(int64_t batch, int64_t head, int64_t query, int64_t key) const {
    return drops ? draws.factor(((batch * heads + head) * time + query) * time + key) : 1.0F;
  }
};
inline AttentionScalars attention_scalars(const OpCall& call, int64_t time, int64_t past) {
  const auto& params = std::get<AttentionParams>(call.params);
  return {params.heads,
          params.heads / params.kv_heads,
          params.head_dim,
          time,
          past,
          params.scale,
          params.dropout > 0.0F,
          dropout_of(call.runtime, params.dropout, params.dropout_site)};
}

__device__ inline int tile_x() { return static_cast<int>(threadIdx.x) % kSide; }
__device__ inline int tile_y() { return static_cast<int>(threadIdx.x) / kSide; }

// The first `count` rows of `from` into a tile; zeros below and beside them.
template <typename Tile>
__device__ void load_tile(const float* from, int64_t stride, int64_t count, int64_t head_dim,
                          float* to) {
  for (int i = static_cast<int>(threadIdx.x); i < Tile::kRows * Tile::kWidth; i += kTileThreads) {
    const int row = i / Tile::kWidth;
    const int column = i % Tile::kWidth;
    to[row * Tile::kStride + column] =
        row < count && column < head_dim ? from[row * stride + column] : 0.0F;
  }
}

// products[i][j] = the inner product of row y + 16 i of one tile and row x + 16 j of another.
template <typename Tile>
__device__ void inner_products(const float* left, const float* right, int64_t head_dim,
                               float (&products)[Tile::kPer][Tile::kPer]) {
  HETMEM_UNROLL
  for (int i = 0; i < Tile::kPer; ++i) {
    HETMEM_UNROLL
    for (int j = 0; j < Tile::kPer; ++j) products[i][j] = 0.0F;
  }
  left += tile_y() * Tile::kStride;
  right += tile_x() * Tile::kStride;
  for (int d = 0; d < static_cast<int>(head_dim); ++d) {
    float a[Tile::kPer];
    float b[Tile::kPer];
    HETMEM_UNROLL
    for (int i = 0; i < Tile::kPer; ++i) a[i] = left[kSide * i * Tile::kStride + d];
    HETMEM_UNROLL
    for (int j = 0; j < Tile::kPer; ++j) b[j] = right[kSide * j * Tile::kStride + d];
    HETMEM_UNROLL
    for (int i = 0; i < Tile::kPer; ++i) {
      HETMEM_UNROLL
      for (int j = 0; j < Tile::kPer; ++j) products[i][j] += a[i] * b[j];
    }
  }
}

// sums[i][c] += the sum over n < depth of weights(y + 16 i, n) tile[n][x + 16 c], where weights are
// `row` apart from one row to the next and `step` from one n to the next.
template <typename Tile>
__device__ void add_weighted_rows(const float* weights, int row, int step, const float* tile,
                                  int depth, float (&sums)[Tile::kPer][Tile::kAcross]) {
  weights += tile_y() * row;
  tile += tile_x();
  for (int n = 0; n < depth; ++n) {
    float a[Tile::kPer];
    float b[Tile::kAcross];
    HETMEM_UNROLL
    for (int i = 0; i < Tile::kPer; ++i) a[i] = weights[kSide * i * row + n * step];
    HETMEM_UNROLL
    for (int c = 0; c < Tile::kAcross; ++c) b[c] = tile[n * Tile::kStride + kSide * c];
    HETMEM_UNROLL
    for (int i = 0; i < Tile::kPer; ++i) {
      HETMEM_UNROLL
      for (int c = 0; c < Tile::kAcross; ++c) sums[i][c] += a[i] * b[c];
    }
  }
}

// Rows y + 16 i < count of a result, times factor[i].
template <typename Tile>
__device__ void store_rows(const float (&sums)[Tile::kPer][Tile::kAcross],
                           const float (&factor)[Tile::kPer], float* to, int64_t stride,
                           int64_t count, int64_t head_dim) {
  HETMEM_UNROLL
  for (int i = 0; i < Tile::kPer; ++i) {
    const int row = tile_y() + kSide * i;
    if (row >= count) continue;
    HETMEM_UNROLL
    for (int c = 0; c < Tile::kAcross; ++c) {
      const int column = tile_x() + kSide * c;
      if (column < head_dim) to[row * stride + column] = sums[i][c] * factor[i];
    }
  }
}

}  // namespace hetmem::ops::HETMEM_CUDA_NAMESPACE
