#include "runtime/executor.h"

#include "core/error.h"
#include "ops/ops.h"

namespace hetmem {
namespace {

constexpr double kZero = 0.0;

}  // namespace

Executor::Executor(const Program& program, const MemoryPlan& plan, Tier& device, Stream& stream,
                   const ParameterViews& parameters)
    : program_(program),
      plan_(plan),
      stream_(stream),
      pool_(device, plan.pool, MemorySpace::kDevice),
      inputs_(device, plan.inputs.bytes, MemoryKind::kStaging, MemorySpace::kDevice) {
  bind(parameters);
  for (size_t i = 0; i < program.steps.size(); ++i) {
    const Step& step = program.steps[i];
    OpCall call;
    call.kind = step.node.op;
    call.params = step.node.params;
    for (const ValueId id : step.node.inputs) call.inputs.push_back(place(id));
    for (const ValueId id : step.node.outputs) call.outputs.push_back(place(id));
    if (step.workspace_bytes > 0) {
      call.workspace =
          pool_.view(plan.workspace_offsets[i], DType::kUint8, Shape{step.workspace_bytes});
    }
    calls_.push_back(std::move(call));
  }
}

void Executor::bind(const ParameterViews& parameters) {
  views_.resize(program_.values.size());
  for (size_t i = 0; i < program_.weights.size(); ++i) {
    views_[static_cast<size_t>(program_.weights[i])] = parameters.weights[i];
    if (program_.training && program_.gradients[i] != kNoValue && !plan_.pooled_gradients) {
      views_[static_cast<size_t>(program_.gradients[i])] = parameters.gradients[i];
    }
  }
  for (size_t i = 0; i < program_.values.size(); ++i) {
    const Value& value = program_.values[i];
    if (plan_.pool_offsets[i] >= 0) {
      views_[i] = pool_.view(plan_.pool_offsets[i], value.dtype, value.shape);
    } else if (value.kind == ValueKind::kInput || value.kind == ValueKind::kConstant ||
               value.kind == ValueKind::kLoss) {
      views_[i] = inputs_.view(plan_.inputs.offsets[i], value.dtype, value.shape);
    }
    if (value.kind == ValueKind::kConstant) {
      stream_.copy(views_[i].data, value.constant->data(), views_[i].bytes());
    }
    if (value.name == "tokens") tokens_ = views_[i];
    if (value.name == "labels") labels_ = views_[i];
  }
  HETMEM_ASSERT(tokens_ && labels_ && program_.loss != kNoValue);
}

TensorView Executor::gradient(size_t weight) const {
  const ValueId id = program_.gradients[weight];
  return id == kNoValue ? TensorView{} : views_[static_cast<size_t>(id)];
}

TensorView Executor::place(ValueId id) const {
  const TensorView& view = views_[static_cast<size_t>(id)];
  HETMEM_ASSERT(view.data != nullptr || view.elements() == 0);
  return view;
}

void Executor::run(std::span<const int32_t> tokens, std::span<const int32_t> labels,
                   const OpRuntime& runtime) {
  HETMEM_ASSERT(static_cast<int64_t>(tokens.size()) == tokens_.elements() &&
                tokens.size() == labels.size());
  // The previous micro-batch may still read its inputs.
  stream_.synchronize();
  host_tokens_.assign(tokens.begin(), tokens.end());
  host_labels_.assign(labels.begin(), labels.end());
  stream_.copy(tokens_.data, host_tokens_.data(), tokens_.bytes());
  stream_.copy(labels_.data, host_labels_.data(), labels_.bytes());
  for (size_t i = 0; i < calls_.size(); ++i) {
    OpCall call = calls_[i];
    call.runtime = runtime;
    call.runtime.accumulate = runtime.accumulate || program_.steps[i].node.accumulates;
    ops::launch(stream_, std::move(call));
  }
}

void Executor::clear_loss() {
  stream_.copy(views_[static_cast<size_t>(program_.loss)].data, &kZero, sizeof(kZero));
}

double Executor::loss() {
  double value = 0;
  stream_.copy(&value, views_[static_cast<size_t>(program_.loss)].data, sizeof(value));
  stream_.synchronize();
  return value;
}

}  // namespace hetmem
