#include "runtime/cached_forward.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "models/models.h"

namespace hetmem {
namespace {

int64_t logits_bytes(int64_t vocabulary) {
  return vocabulary * static_cast<int64_t>(sizeof(float));
}

// The head's workspace is where the logits of one token go.
Program compile_pass(const ModelConfig& model, int64_t tokens, DeviceKind device) {
  CompileOptions options;
  options.training = false;
  options.workspace = [device](OpKind kind, const OpParams& params,
                               const std::vector<Value>& inputs) {
    if (kind == OpKind::kHeadLoss) return logits_bytes(inputs[1].shape[0]);
    std::vector<Shape> shapes;
    for (const Value& value : inputs) shapes.push_back(value.shape);
    return ops::workspace_bytes(device, kind, params, shapes);
  };
  return compile(build_graph(model, {1, tokens}, false), options);
}

// The rows of a table from `position` on.
TensorView rows_from(const TensorView& table, int64_t position) {
  HETMEM_ASSERT(position >= 0 && position < table.shape[0]);
  TensorView rows = table;
  rows.data = table.as<float>() + position * table.row_stride;
  rows.shape = {table.shape[0] - position, table.shape[1]};
  return rows;
}

// x [1,T,C], head weight [V,C] -> the logits of the last token, as a linear op.
OpCall logits_call(const OpCall& head) {
  const TensorView& x = head.inputs[0];
  const TensorView& weight = head.inputs[1];
  TensorView last = x;
  last.data = x.as<float>() + (x.shape[1] - 1) * x.row_stride;
  last.shape = {1, x.shape[2]};
  OpCall call;
  call.kind = OpKind::kLinear;
  call.params = LinearParams{};
  call.inputs = {last, weight};
  call.outputs = {
      TensorView(head.workspace.data, DType::kFloat32, {1, weight.shape[0]}, MemorySpace::kDevice)};
  return call;
}

}  // namespace

KeyValueCache::KeyValueCache(const ModelConfig& model, int64_t positions, Tier& device)
    : shape_{model.kv_heads, positions, model.head_dim},
      buffer_(device, bytes(model, positions), MemoryKind::kActivationsSaved,
              MemorySpace::kDevice) {}

int64_t KeyValueCache::bytes(const ModelConfig& model, int64_t positions) {
  return 2 * model.layers * positions * model.kv_heads * model.head_dim *
         static_cast<int64_t>(sizeof(float));
}

ops::KeyValueRows KeyValueCache::rows(int layer, int64_t position) const {
  const int64_t block = shape_.elements() * static_cast<int64_t>(sizeof(float));
  const int64_t keys = 2 * static_cast<int64_t>(layer) * block;
  return {buffer_.view(keys, DType::kFloat32, shape_),
          buffer_.view(keys + block, DType::kFloat32, shape_), position};
}

CachedForward::CachedForward(const ModelConfig& model, int64_t tokens, DeviceKind device)
    : program_(compile_pass(model, tokens, device)), plan_(plan_memory(program_)) {}

TensorView CachedForward::place(ValueId id, const ForwardMemory& memory) const {
  const Value& value = program_.value(id);
  switch (value.kind) {
    case ValueKind::kInput:  // the labels of the loss have no place: there is no loss
      return value.name == "tokens"
                 ? TensorView(memory.tokens.data, value.dtype, value.shape, MemorySpace::kDevice)
                 : TensorView{};
    case ValueKind::kConstant:
      return memory.rope;
    case ValueKind::kWeight: {
      const auto found = std::find(program_.weights.begin(), program_.weights.end(), id);
      return memory.weights[static_cast<size_t>(found - program_.weights.begin())];
    }
    case ValueKind::kLoss:
      return {};
    default:
      return memory.pool->view(plan_.pool_offsets[static_cast<size_t>(id)], value.dtype,
                               value.shape);
  }
}

void CachedForward::bind(const ForwardMemory& memory) {
  calls_.clear();
  cache_ = memory.cache;
  for (size_t i = 0; i < program_.steps.size(); ++i) {
    const Step& step = program_.steps[i];
    OpCall call;
    call.kind = step.node.op;
    call.params = step.node.params;
    for (const ValueId id : step.node.inputs) call.inputs.push_back(place(id, memory));
    for (const ValueId id : step.node.outputs) call.outputs.push_back(place(id, memory));
    if (step.workspace_bytes > 0) {
      call.workspace =
          memory.pool->view(plan_.workspace_offsets[i], DType::kUint8, Shape{step.workspace_bytes});
    }
    if (call.kind == OpKind::kHeadLoss) {
      call = logits_call(call);
      logits_ = call.outputs[0];
    }
    calls_.push_back(std::move(call));
  }
  HETMEM_ASSERT(logits_ && program_.steps.back().node.op == OpKind::kHeadLoss);
}

void CachedForward::run(Stream& stream, int64_t position, bool logits) const {
  for (size_t i = 0; i < calls_.size(); ++i) {
    const Node& node = program_.steps[i].node;
    OpCall call = calls_[i];
    switch (node.op) {
      case OpKind::kEmbedding:
        if (call.inputs.size() > 2) call.inputs[2] = rows_from(call.inputs[2], position);
        break;
      case OpKind::kRope:
        call.inputs[1] = rows_from(call.inputs[1], position);
        break;
      case OpKind::kAttention:
        ops::cached_attention(stream, std::move(call), cache_->rows(node.layer, position));
        continue;
      case OpKind::kHeadLoss:
        if (!logits) continue;
        break;
      default:
        break;
    }
    ops::launch(stream, std::move(call));
  }
}

}  // namespace hetmem
