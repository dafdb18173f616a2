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

// q of the new tokens, k and v of all tokens up to the last of them, in rows from `past` on.
void attend(ThreadPool& pool, const OpCall& call, const Heads& in, int64_t past) {
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
    AttentionTile tile = tile_of(params, call.runtime, time, batch, head);
    tile.past = past;
    kernels.attention_forward(
        tile, block * kQueryRows, std::min(time, (block + 1) * kQueryRows),
        at(in.q, batch, head, time, d), in.q.row_stride, at(in.k, batch, head / group, time, d),
        at(in.v, batch, head / group, time, d), in.k.row_stride, at(o, batch, head, time, d),
        o.row_stride, lse + (batch * params.heads + head) * time);
  });
}

void copy_rows(const TensorView& from, int64_t rows, const TensorView& to, int64_t first) {
  const int64_t width = from.shape[-1];
  for (int64_t row = 0; row < rows; ++row) {
    const float* source = from.as<float>() + row * from.row_stride;
    std::copy(source, source + width, to.as<float>() + (first + row) * to.row_stride);
  }
}

void clear(const TensorView& view, int64_t batch, int64_t head, int64_t time, int64_t head_dim) {
  for (int64_t t = 0; t < time; ++t) {
    float* row = at(view, batch, head, time, head_dim) + t * view.row_stride;
    std::fill(row, row + head_dim, 0.0F);
  }
}

}  // namespace

void attention(ThreadPool& pool, const OpCall& call) {
  attend(pool, call, heads_of(std::get<AttentionParams>(call.params), call.inputs), 0);
}

void cached_attention(ThreadPool& pool, const OpCall& call, const KeyValueRows& cache) {
  const trace::Range range("compute", "cached_attention");
  const auto& params = std::get<AttentionParams>(call.params);
  const TensorView& o = call.outputs[0];
  const int64_t time = o.shape[1];
  HETMEM_ASSERT(o.shape[0] == 1 && params.dropout == 0.0F);
  HETMEM_ASSERT(cache.position >= 0 && cache.position + time <= cache.keys.shape[0]);
  const Heads fresh = heads_of(params, call.inputs);
  copy_rows(fresh.k, time, cache.keys, cache.position);
  copy_rows(fresh.v, time, cache.values, cache.position);
  if (time > 1) return attend(pool, call, {fresh.q, cache.keys, cache.values}, cache.position);
  const int64_t d = params.head_dim;
  const int64_t group = params.heads / params.kv_heads;
  pool.parallel_for(params.heads, [&](int64_t head) {
    const int64_t column = head / group * d;
    kernel_table().attention_decode(fresh.q.as<float>() + head * d, cache.keys.as<float>() + column,
                                    cache.values.as<float>() + column, cache.keys.row_stride,
                                    cache.position + 1, d, params.scale, o.as<float>() + head * d);
  });
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
