#include <algorithm>

#include "core/error.h"
#include "core/trace.h"
#include "ops/cpu/isa/kernel_table.h"
#include "ops/cpu/kernels.h"

namespace hetmem::ops::cpu {
namespace {

constexpr int64_t kQueryRows = 256;  // queries of one forward task

// q, k and v (or their gradients) as operands of their own or as columns of one.
struct Heads {
  TensorView q;
  TensorView k;
  TensorView v;
};

Heads heads_of(const AttentionParams& params, const std::vector<TensorView>& operands) {
  if (!params.packed) return {operands[0], operands[1], operands[2]};
  const int64_t q_width = params.heads * params.head_dim;
  const int64_t kv_width = params.kv_heads * params.head_dim;
  return {operands[0].columns(0, q_width), operands[0].columns(q_width, kv_width),
          operands[0].columns(q_width + kv_width, kv_width)};
}

float* at(const TensorView& view, int64_t batch, int64_t head, int64_t time, int64_t head_dim) {
  return view.as<float>() + batch * time * view.row_stride + head * head_dim;
}

AttentionTile tile_of(const AttentionParams& params, const OpRuntime& runtime, int64_t time,
                      int64_t batch, int64_t head) {
  return {time,
          params.head_dim,
          params.scale,
          params.dropout,
          runtime.random_key,
          params.dropout_site,
          (batch * params.heads + head) * time * time,
          0};
}

void clear(const TensorView& view, int64_t batch, int64_t head, int64_t time, int64_t head_dim) {
  for (int64_t t = 0; t < time; ++t) {
    float* row = at(view, batch, head, time, head_dim) + t * view.row_stride;
    std::fill(row, row + head_dim, 0.0F);
  }
}

// Keys and values of all tokens, `past` of them from before the first query.
struct SeenRows {
  const float* keys;
  const float* values;
  int64_t stride;        // from one row to the next
  int64_t head_stride;   // from one head to the next
  int64_t batch_stride;  // from one sequence to the next
  int64_t past;
};

void attend(ThreadPool& pool, const OpCall& call, const TensorView& q, const SeenRows& seen) {
  const auto& params = std::get<AttentionParams>(call.params);
  const TensorView& o = call.outputs[0];
  auto* lse = call.outputs[1].as<float>();
  const int64_t batches = o.shape[0];
  const int64_t time = o.shape[1];
  const int64_t d = params.head_dim;
  const int64_t group = params.heads / params.kv_heads;
  const int64_t blocks = (time + kQueryRows - 1) / kQueryRows;
  const KernelTable& kernels = kernel_table();
  pool.parallel_for(batches * params.heads * blocks, [&](int64_t task) {
    const int64_t block = task % blocks;
    const int64_t head = task / blocks % params.heads;
    const int64_t batch = task / blocks / params.heads;
    const int64_t row = batch * seen.batch_stride + head / group * seen.head_stride;
    AttentionTile tile = tile_of(params, call.runtime, time, batch, head);
    tile.past = seen.past;
    kernels.attention_forward(tile, block * kQueryRows, std::min(time, (block + 1) * kQueryRows),
                              at(q, batch, head, time, d), q.row_stride, seen.keys + row,
                              seen.values + row, seen.stride, at(o, batch, head, time, d),
                              o.row_stride, lse + (batch * params.heads + head) * time);
  });
}

// Appends rows [T, G*D] to a cache [G, S, D].
void append_rows(const TensorView& rows, int64_t time, const TensorView& cache, int64_t position) {
  const int64_t capacity = cache.shape[1];
  const int64_t d = cache.shape[2];
  for (int64_t head = 0; head < cache.shape[0]; ++head) {
    float* to = cache.as<float>() + (head * capacity + position) * d;
    for (int64_t row = 0; row < time; ++row) {
      const float* from = rows.as<float>() + row * rows.row_stride + head * d;
      std::copy(from, from + d, to + row * d);
    }
  }
}

// One query: bound by reading the keys and values of all tokens.
void decode(ThreadPool& pool, const OpCall& call, const TensorView& q, const SeenRows& seen) {
  const auto& params = std::get<AttentionParams>(call.params);
  auto* o = call.outputs[0].as<float>();
  const int64_t d = params.head_dim;
  const int64_t group = params.heads / params.kv_heads;
  const int64_t parts = (group + kDecodeHeads - 1) / kDecodeHeads;
  AttentionTile tile = tile_of(params, call.runtime, 1, 0, 0);
  tile.past = seen.past;
  pool.parallel_for(params.kv_heads * parts, [&](int64_t task) {
    const int64_t kv_head = task / parts;
    const int64_t first = task % parts * kDecodeHeads;
    const int64_t query = (kv_head * group + first) * d;
    const int64_t row = kv_head * seen.head_stride;
    kernel_table().attention_decode(tile, std::min(kDecodeHeads, group - first),
                                    q.as<float>() + query, seen.keys + row, seen.values + row,
                                    seen.stride, o + query);
  });
}

}  // namespace

void attention(ThreadPool& pool, const OpCall& call) {
  const auto& params = std::get<AttentionParams>(call.params);
  const Heads in = heads_of(params, call.inputs);
  const int64_t stride = in.k.row_stride;
  attend(pool, call, in.q,
         {in.k.as<float>(), in.v.as<float>(), stride, params.head_dim,
          call.outputs[0].shape[1] * stride, 0});
}

void cached_attention(ThreadPool& pool, const OpCall& call, const KeyValueRows& cache) {
  const trace::Range range("compute", "cached_attention");
  const auto& params = std::get<AttentionParams>(call.params);
  const int64_t time = call.outputs[0].shape[1];
  const int64_t d = params.head_dim;
  const int64_t capacity = cache.keys.shape[1];
  HETMEM_ASSERT(call.outputs[0].shape[0] == 1 && params.dropout == 0.0F);
  HETMEM_ASSERT(cache.keys.shape == (Shape{params.kv_heads, capacity, d}));
  HETMEM_ASSERT(cache.position >= 0 && cache.position + time <= capacity);
  const Heads fresh = heads_of(params, call.inputs);
  append_rows(fresh.k, time, cache.keys, cache.position);
  append_rows(fresh.v, time, cache.values, cache.position);
  const SeenRows seen{cache.keys.as<float>(), cache.values.as<float>(), d, capacity * d, 0,
                      cache.position};
  if (time == 1) return decode(pool, call, fresh.q, seen);
  attend(pool, call, fresh.q, seen);
}

void attention_backward(ThreadPool& pool, const OpCall& call) {
  const auto& params = std::get<AttentionParams>(call.params);
  const size_t operands = params.packed ? 1 : 3;
  const Heads in = heads_of(params, call.inputs);
  const TensorView& o = call.inputs[operands];
  const auto* lse = call.inputs[operands + 1].as<float>();
  const TensorView& dout = call.inputs[operands + 2];
  const Heads out = heads_of(params, call.outputs);
  const int64_t batches = o.shape[0];
  const int64_t time = o.shape[1];
  const int64_t d = params.head_dim;
  const int64_t group = params.heads / params.kv_heads;
  const KernelTable& kernels = kernel_table();
  // A key/value head gathers from the query heads of its group, in order, within one task.
  pool.parallel_for(batches * params.kv_heads, [&](int64_t task) {
    const int64_t kv_head = task % params.kv_heads;
    const int64_t batch = task / params.kv_heads;
    clear(out.k, batch, kv_head, time, d);
    clear(out.v, batch, kv_head, time, d);
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      clear(out.q, batch, head, time, d);
      kernels.attention_backward(
          tile_of(params, call.runtime, time, batch, head), at(in.q, batch, head, time, d),
          in.q.row_stride, at(in.k, batch, kv_head, time, d), at(in.v, batch, kv_head, time, d),
          in.k.row_stride, at(o, batch, head, time, d), at(dout, batch, head, time, d),
          o.row_stride, lse + (batch * params.heads + head) * time, at(out.q, batch, head, time, d),
          out.q.row_stride, at(out.k, batch, kv_head, time, d), at(out.v, batch, kv_head, time, d),
          out.k.row_stride);
    }
  });
}

}  // namespace hetmem::ops::cpu
