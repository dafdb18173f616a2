// Causal attention in tiles with the online softmax of Milakov & Gimelshein (2018), as in
// FlashAttention (Dao et al. 2022): a block of threads for 64 queries of a head, which passes over
// the keys that they see; nothing T x T is kept.
#include "ops/cuda/attention_tile.h"
#include "ops/cuda/kernels.h"

namespace hetmem::ops::HETMEM_CUDA_NAMESPACE {
namespace {

// Over the 16 threads that share queries.
__device__ float row_sum(float value) {
  HETMEM_UNROLL
  for (int distance = kSide / 2; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(0xffffffffU, value, distance);
  }
  return value;
}
__device__ float row_max(float value) {
  HETMEM_UNROLL
  for (int distance = kSide / 2; distance > 0; distance /= 2) {
    value = fmaxf(value, __shfl_xor_sync(0xffffffffU, value, distance));
  }
  return value;
}

// The running softmax of the queries of a thread.
template <typename Tile>
struct Softmax {
  float most[Tile::kPer];
  float sum[Tile::kPer];
  float o[Tile::kPer][Tile::kAcross];

  __device__ void start() {
    HETMEM_UNROLL
    for (int i = 0; i < Tile::kPer; ++i) {
      most[i] = -INFINITY;
      sum[i] = 0.0F;
      HETMEM_UNROLL
      for (int c = 0; c < Tile::kAcross; ++c) o[i][c] = 0.0F;
    }
  }

  // Takes scores of query i in: they become weights, what was summed is rescaled.
  __device__ void take(int i, float (&scores)[Tile::kPer]) {
    float now = most[i];
    HETMEM_UNROLL
    for (int j = 0; j < Tile::kPer; ++j) now = fmaxf(now, scores[j]);
    now = row_max(now);
    const float shrink = expf(most[i] - now);
    float added = 0.0F;
    HETMEM_UNROLL
    for (int j = 0; j < Tile::kPer; ++j) {
      scores[j] = expf(scores[j] - now);
      added += scores[j];
    }
    sum[i] = sum[i] * shrink + row_sum(added);
    most[i] = now;
    HETMEM_UNROLL
    for (int c = 0; c < Tile::kAcross; ++c) o[i][c] *= shrink;
  }
};

// Grid: tiles of queries (those that see most keys first), heads, sequences.
template <typename Tile>
__global__ void __launch_bounds__(kTileThreads)
    attention_kernel(AttentionScalars of, HeadOperands in, HeadRows out, float* lse) {
  auto* q_tile = shared_memory<float>();
  float* kv_tile = q_tile + Tile::kRowsSize;  // keys, then values
  float* weights = kv_tile + Tile::kRowsSize;
  const int64_t head = blockIdx.y;
  const int64_t batch = blockIdx.z;
  const int64_t q0 = static_cast<int64_t>(gridDim.x - 1 - blockIdx.x) * Tile::kRows;
  const int64_t rows = of.time - q0 < Tile::kRows ? of.time - q0 : Tile::kRows;
  const int64_t seen = of.past + q0 + rows;
  const int64_t kv_head = head / of.group;
  load_tile<Tile>(in.q.at(batch, head, q0), in.q.stride, rows, of.head_dim, q_tile);
  Softmax<Tile> softmax;
  softmax.start();
  for (int64_t k0 = 0; k0 < seen; k0 += Tile::kRows) {
    const int64_t count = seen - k0 < Tile::kRows ? seen - k0 : Tile::kRows;
    __syncthreads();  // the values before these have been read
    load_tile<Tile>(in.k.at(batch, kv_head, k0), in.k.stride, count, of.head_dim, kv_tile);
    __syncthreads();
    float scores[Tile::kPer][Tile::kPer];
    inner_products<Tile>(q_tile, kv_tile, of.head_dim, scores);
    HETMEM_UNROLL
    for (int i = 0; i < Tile::kPer; ++i) {
      const int row = tile_y() + kSide * i;
      HETMEM_UNROLL
      for (int j = 0; j < Tile::kPer; ++j) {
        const int key = tile_x() + kSide * j;
        const bool visible = key < count && k0 + key <= of.past + q0 + row;
        scores[i][j] = visible ? scores[i][j] * of.scale : -INFINITY;
      }
      softmax.take(i, scores[i]);
      HETMEM_UNROLL
      for (int j = 0; j < Tile::kPer; ++j) {
        const int key = tile_x() + kSide * j;
        weights[row * Tile::kWeightStride + key] =
            scores[i][j] * of.keep(batch, head, q0 + row, k0 + key);
      }
    }
    __syncthreads();  // the keys have been read, the weights are there
    load_tile<Tile>(in.v.at(batch, kv_head, k0), in.v.stride, count, of.head_dim, kv_tile);
    __syncthreads();
    add_weighted_rows<Tile>(weights, Tile::kWeightStride, 1, kv_tile, static_cast<int>(count),
                            softmax.o);
  }
  float inverse[Tile::kPer];
  HETMEM_UNROLL
  for (int i = 0; i < Tile::kPer; ++i) {
    inverse[i] = 1.0F / softmax.sum[i];
    const int row = tile_y() + kSide * i;
    if (tile_x() > 0 || row >= rows) continue;
    lse[(batch * of.heads + head) * of.time + q0 + row] = softmax.most[i] + logf(softmax.sum[i]);
  }
  store_rows<Tile>(softmax.o, inverse, out.at(batch, head, q0), out.stride, rows, of.head_dim);
}

void attend(const Queue& queue, const OpCall& call, const HeadOperands& in, int64_t past) {
  const TensorView& o = call.outputs[0];
  const AttentionScalars of = attention_scalars(call, o.shape[1], past);
  with_tile(of.head_dim, [&](auto tile) {
    using Tile = decltype(tile);
    constexpr int64_t kShared =
        (2 * Tile::kRowsSize + Tile::kWeightsSize) * static_cast<int64_t>(sizeof(float));
    const dim3 grid(blocks_for(of.time, Tile::kRows), static_cast<unsigned>(of.heads),
                    static_cast<unsigned>(o.shape[0]));
    launch_kernel(queue, attention_kernel<Tile>, grid, dim3(kTileThreads), kShared, of, in,
                  head_rows(o, of.head_dim), call.outputs[1].as<float>());
  });
}

// Rows [T, G*D] after those of a cache [G, S, D].
struct Append {
  HeadRows rows;
  float* cache;
  int64_t capacity;
  int64_t position;
  int64_t time;
  int64_t head_dim;
  __device__ void operator()(int64_t i) const {
    const int64_t head = i / (time * head_dim);
    const int64_t row = i / head_dim % time;
    const int64_t column = i % head_dim;
    cache[(head * capacity + position + row) * head_dim + column] = rows.at(0, head, row)[column];
  }
};

}  // namespace

void attention(const Queue& queue, const OpCall& call) {
  attend(queue, call, head_operands(std::get<AttentionParams>(call.params), call.inputs), 0);
}

void cached_attention(const Queue& queue, const OpCall& call, const KeyValueRows& cache) {
  const auto& params = std::get<AttentionParams>(call.params);
  const int64_t time = call.outputs[0].shape[1];
  const int64_t d = params.head_dim;
  const int64_t capacity = cache.keys.shape[1];
  HETMEM_ASSERT(call.outputs[0].shape[0] == 1 && params.dropout == 0.0F);
  HETMEM_ASSERT(cache.keys.shape == (Shape{params.kv_heads, capacity, d}));
  HETMEM_ASSERT(cache.position >= 0 && cache.position + time <= capacity);
  HeadOperands in = head_operands(params, call.inputs);
  const int64_t fresh = params.kv_heads * time * d;
  for_each(queue, fresh, Append{in.k, cache.keys.as<float>(), capacity, cache.position, time, d});
  for_each(queue, fresh, Append{in.v, cache.values.as<float>(), capacity, cache.position, time, d});
  in.k = {cache.keys.as<float>(), d, capacity * d, 0};
  in.v = {cache.values.as<float>(), d, capacity * d, 0};
  attend(queue, call, in, cache.position);
}

}  // namespace hetmem::ops::HETMEM_CUDA_NAMESPACE
