// The backward pass of FlashAttention (Dao et al. 2022): probabilities are made again from the
// saved log-sum-exp. Two kernels, so that no sum needs atomics: a block of threads for a tile of
// keys gathers dk and dv from the queries that see it, one for a tile of queries gathers dq.
#include "ops/cuda/attention_tile.h"
#include "ops/cuda/kernels.h"

namespace hetmem::ops::HETMEM_CUDA_NAMESPACE {
namespace {

constexpr int kDeltaThreads = 128;
constexpr int kDeltaRows = kDeltaThreads / kWarp;

struct BackwardOperands {
  HeadOperands in;
  HeadOperands gradients;
  HeadRows dout;
  const float* lse;    // [B, H, T]
  const float* delta;  // [B, H, T]: do . o, the mean gradient of a query's probabilities
};

// A warp for each query of each head.
__global__ void __launch_bounds__(kDeltaThreads)
    delta_kernel(AttentionScalars of, HeadRows o, HeadRows dout, int64_t rows, float* delta) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kDeltaRows + threadIdx.x / kWarp;
  if (row >= rows) return;
  const int64_t t = row % of.time;
  const int64_t head = row / of.time % of.heads;
  const int64_t batch = row / of.time / of.heads;
  const float* left = o.at(batch, head, t);
  const float* right = dout.at(batch, head, t);
  float sum = 0.0F;
  for (int64_t i = threadIdx.x % kWarp; i < of.head_dim; i += kWarp) sum += left[i] * right[i];
  sum = warp_sum(sum);
  if (threadIdx.x % kWarp == 0) delta[row] = sum;
}

// The tiles of a block.
template <typename Tile>
struct BackwardTiles {
  __device__ explicit BackwardTiles(float* memory)
      : q(memory),
        dout(q + Tile::kRowsSize),
        k(dout + Tile::kRowsSize),
        v(k + Tile::kRowsSize),
        slopes(v + Tile::kRowsSize),
        weights(slopes + Tile::kWeightsSize) {}
  float* q;
  float* dout;
  float* k;
  float* v;
  float* slopes;   // gradients of the scores, queries by keys; 0 where a query sees no such key
  float* weights;  // what the values were multiplied with; only where asked for

  static constexpr int64_t bytes(bool with_weights) {
    return (4 * Tile::kRowsSize + (with_weights ? 2 : 1) * Tile::kWeightsSize) *
           static_cast<int64_t>(sizeof(float));
  }

  __device__ void load_queries(const AttentionScalars& of, const BackwardOperands& with,
                               int64_t batch, int64_t head, int64_t q0) {
    const int64_t count = of.time - q0;
    load_tile<Tile>(with.in.q.at(batch, head, q0), with.in.q.stride, count, of.head_dim, q);
    load_tile<Tile>(with.dout.at(batch, head, q0), with.dout.stride, count, of.head_dim, dout);
  }
  __device__ void load_keys(const AttentionScalars& of, const BackwardOperands& with, int64_t batch,
                            int64_t kv_head, int64_t k0) {
    const int64_t count = of.time - k0;
    load_tile<Tile>(with.in.k.at(batch, kv_head, k0), with.in.k.stride, count, of.head_dim, k);
    load_tile<Tile>(with.in.v.at(batch, kv_head, k0), with.in.v.stride, count, of.head_dim, v);
  }

  // slopes = p (dp keep - delta) scale and weights = p keep, from the loaded tiles.
  template <bool kWithWeights>
  __device__ void make_slopes(const AttentionScalars& of, const BackwardOperands& with,
                              int64_t batch, int64_t head, int64_t q0, int64_t k0) {
    float p[Tile::kPer][Tile::kPer];
    float dp[Tile::kPer][Tile::kPer];
    inner_products<Tile>(q, k, of.head_dim, p);
    inner_products<Tile>(dout, v, of.head_dim, dp);
    const int64_t first = (batch * of.heads + head) * of.time;
    HETMEM_UNROLL
    for (int i = 0; i < Tile::kPer; ++i) {
      const int row = tile_y() + kSide * i;
      const int64_t query = q0 + row;
      const bool exists = query < of.time;
      const float shift = exists ? with.lse[first + query] : 0.0F;
      const float center = exists ? with.delta[first + query] : 0.0F;
      HETMEM_UNROLL
      for (int j = 0; j < Tile::kPer; ++j) {
        const int column = tile_x() + kSide * j;
        const int64_t key = k0 + column;
        const int at = row * Tile::kWeightStride + column;
        const bool visible = exists && key <= query;
        const float probability = visible ? expf(p[i][j] * of.scale - shift) : 0.0F;
        const float keep = visible ? of.keep(batch, head, query, key) : 0.0F;
        slopes[at] = probability * (dp[i][j] * keep - center) * of.scale;
        if (kWithWeights) weights[at] = probability * keep;
      }
    }
  }
};

// Grid: tiles of keys, key/value heads, sequences.
template <typename Tile>
__global__ void __launch_bounds__(kTileThreads)
    key_value_gradient_kernel(AttentionScalars of, BackwardOperands with) {
  BackwardTiles<Tile> tiles(shared_memory<float>());
  const int64_t k0 = static_cast<int64_t>(blockIdx.x) * Tile::kRows;
  const int64_t kv_head = blockIdx.y;
  const int64_t batch = blockIdx.z;
  tiles.load_keys(of, with, batch, kv_head, k0);
  float dk[Tile::kPer][Tile::kAcross] = {};
  float dv[Tile::kPer][Tile::kAcross] = {};
  for (int64_t head = kv_head * of.group; head < (kv_head + 1) * of.group; ++head) {
    for (int64_t q0 = k0; q0 < of.time; q0 += Tile::kRows) {
      __syncthreads();  // the queries before these have been read
      tiles.load_queries(of, with, batch, head, q0);
      __syncthreads();
      tiles.template make_slopes<true>(of, with, batch, head, q0, k0);
      __syncthreads();
      add_weighted_rows<Tile>(tiles.weights, 1, Tile::kWeightStride, tiles.dout, Tile::kRows, dv);
      add_weighted_rows<Tile>(tiles.slopes, 1, Tile::kWeightStride, tiles.q, Tile::kRows, dk);
    }
  }
  float one[Tile::kPer];
  HETMEM_UNROLL
  for (int i = 0; i < Tile::kPer; ++i) one[i] = 1.0F;
  const HeadOperands& to = with.gradients;
  store_rows<Tile>(dk, one, to.k.at(batch, kv_head, k0), to.k.stride, of.time - k0, of.head_dim);
  store_rows<Tile>(dv, one, to.v.at(batch, kv_head, k0), to.v.stride, of.time - k0, of.head_dim);
}

// Grid: tiles of queries (those that see most keys first), heads, sequences.
template <typename Tile>
__global__ void __launch_bounds__(kTileThreads)
    query_gradient_kernel(AttentionScalars of, BackwardOperands with) {
  BackwardTiles<Tile> tiles(shared_memory<float>());
  const int64_t q0 = static_cast<int64_t>(gridDim.x - 1 - blockIdx.x) * Tile::kRows;
  const int64_t head = blockIdx.y;
  const int64_t batch = blockIdx.z;
  tiles.load_queries(of, with, batch, head, q0);
  float dq[Tile::kPer][Tile::kAcross] = {};
  for (int64_t k0 = 0; k0 <= q0; k0 += Tile::kRows) {
    __syncthreads();  // the keys before these have been read
    tiles.load_keys(of, with, batch, head / of.group, k0);
    __syncthreads();
    tiles.template make_slopes<false>(of, with, batch, head, q0, k0);
    __syncthreads();
    add_weighted_rows<Tile>(tiles.slopes, Tile::kWeightStride, 1, tiles.k, Tile::kRows, dq);
  }
  float one[Tile::kPer];
  HETMEM_UNROLL
  for (int i = 0; i < Tile::kPer; ++i) one[i] = 1.0F;
  const HeadRows& to = with.gradients.q;
  store_rows<Tile>(dq, one, to.at(batch, head, q0), to.stride, of.time - q0, of.head_dim);
}

}  // namespace

int64_t attention_backward_workspace(const AttentionParams& params,
                                     const std::vector<Shape>& inputs) {
  return inputs[0].rows() * params.heads * static_cast<int64_t>(sizeof(float));
}

void attention_backward(const Queue& queue, const OpCall& call) {
  const auto& params = std::get<AttentionParams>(call.params);
  const size_t operands = params.packed ? 1 : 3;
  const TensorView& o = call.inputs[operands];
  const TensorView& dout = call.inputs[operands + 2];
  const AttentionScalars of = attention_scalars(call, o.shape[1], 0);
  auto* delta = static_cast<float*>(call.workspace.data);
  const BackwardOperands with{head_operands(params, call.inputs),
                              head_operands(params, call.outputs), head_rows(dout, of.head_dim),
                              call.inputs[operands + 1].as<float>(), delta};
  const int64_t rows = o.shape.rows() * params.heads;
  launch_kernel(queue, delta_kernel, dim3(blocks_for(rows, kDeltaRows)), dim3(kDeltaThreads), 0, of,
                head_rows(o, of.head_dim), with.dout, rows, delta);
  with_tile(of.head_dim, [&](auto tile) {
    using Tile = decltype(tile);
    const unsigned blocks = blocks_for(of.time, Tile::kRows);
    const auto batches = static_cast<unsigned>(o.shape[0]);
    launch_kernel(queue, key_value_gradient_kernel<Tile>,
                  dim3(blocks, static_cast<unsigned>(params.kv_heads), batches), dim3(kTileThreads),
                  BackwardTiles<Tile>::bytes(true), of, with);
    launch_kernel(queue, query_gradient_kernel<Tile>,
                  dim3(blocks, static_cast<unsigned>(params.heads), batches), dim3(kTileThreads),
                  BackwardTiles<Tile>::bytes(false), of, with);
  });
}

}  // namespace hetmem::ops::HETMEM_CUDA_NAMESPACE
