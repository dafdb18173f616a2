#include <string_view>
#include <utility>

#include "core/error.h"
#include "core/trace.h"
#include "ops/cpu/kernels.h"
#include "ops/cuda/backend.h"
#include "ops/ops.h"

namespace hetmem::ops {
namespace {

bool on_cuda(const Stream& stream) { return stream.kind() == DeviceKind::kCuda; }

CpuStream& cpu_stream(Stream& stream) {
  HETMEM_ASSERT(stream.kind() == DeviceKind::kCpu);
  return static_cast<CpuStream&>(stream);
}

// Host code as work of its stream, under a name in traces.
template <typename Work>
void enqueue(Stream& stream, std::string_view name, Work work) {
  CpuStream& cpu = cpu_stream(stream);
  cpu.enqueue([&track = cpu.name(), name, work = std::move(work)](ThreadPool& pool) {
    const trace::Range range(track, name);
    work(pool);
  });
}

void require_space(const Stream& stream, const TensorView& view) {
  HETMEM_ASSERT(view.data != nullptr && view.space == stream.space());
}

// Weights and their gradients that a part of an op has no use for: a stage of the head, and the
// blocks of an embedding's gradient after the first, which makes that of the positions.
bool may_be_empty(const OpCall& call, bool output, size_t index) {
  if (call.kind == OpKind::kEmbeddingBackward) {
    return output && index == 1 && call.part.rows > 0 && call.part.first_row > 0;
  }
  const bool head = call.kind == OpKind::kHeadLoss || call.kind == OpKind::kHeadLossTrain;
  if (!head || call.part.rows == 0) return false;
  if (output) return index == 2 && call.part.stage != HeadStage::kGradients;
  return index == 1 && call.part.stage == HeadStage::kLoss;
}

void require_operands(const Stream& stream, const OpCall& call) {
  for (size_t i = 0; i < call.inputs.size(); ++i) {
    if (call.inputs[i] || !may_be_empty(call, false, i)) require_space(stream, call.inputs[i]);
  }
  for (size_t i = 0; i < call.outputs.size(); ++i) {
    if (call.outputs[i] || !may_be_empty(call, true, i)) require_space(stream, call.outputs[i]);
  }
  if (call.workspace) require_space(stream, call.workspace);
}

// A weight of an optimizer: fp32, or the two parts of a split master.
void require_weight(const Stream& stream, const TensorView& weight, const TensorView& low) {
  require_space(stream, weight);
  HETMEM_ASSERT(weight.dtype == (low ? DType::kBFloat16 : DType::kFloat32));
  if (!low) return;
  require_space(stream, low);
  HETMEM_ASSERT(low.dtype == DType::kInt16 && low.elements() == weight.elements());
}

}  // namespace

void launch(Stream& stream, OpCall call) {
  require_operands(stream, call);
  if (on_cuda(stream)) return cuda_backend::launch(stream, std::move(call));
  cpu_stream(stream).enqueue([work = std::move(call)](ThreadPool& pool) { cpu::run(pool, work); });
}

void cached_attention(Stream& stream, OpCall call, const KeyValueRows& cache) {
  require_operands(stream, call);
  for (const TensorView* view : {&cache.keys, &cache.values}) require_space(stream, *view);
  if (on_cuda(stream)) return cuda_backend::cached_attention(stream, std::move(call), cache);
  cpu_stream(stream).enqueue([work = std::move(call), cache](ThreadPool& pool) {
    cpu::cached_attention(pool, work, cache);
  });
}

std::vector<OpPart> parts(DeviceKind device, OpKind kind, const OpParams& params,
                          const std::vector<Shape>& inputs, int64_t weight_rows,
                          int64_t block_rows) {
  const auto of = device == DeviceKind::kCuda ? cuda_backend::parts : cpu::parts;
  return of(kind, params, inputs, weight_rows, block_rows);
}

int64_t workspace_bytes(DeviceKind device, OpKind kind, const OpParams& params,
                        const std::vector<Shape>& inputs) {
  const auto of =
      device == DeviceKind::kCuda ? cuda_backend::workspace_bytes : cpu::workspace_bytes;
  return of(kind, params, inputs);
}

void adamw_step(Stream& stream, const AdamWStep& step, TensorView weight, TensorView gradient,
                TensorView m, TensorView v, TensorView low) {
  require_weight(stream, weight, low);
  for (const TensorView* view : {&gradient, &m, &v}) require_space(stream, *view);
  if (on_cuda(stream)) return cuda_backend::adamw_step(stream, step, weight, gradient, m, v, low);
  enqueue(stream, "adamw_step",
          [=](ThreadPool& pool) { cpu::adamw_step(pool, step, weight, gradient, m, v, low); });
}

void adamw_8bit_step(Stream& stream, const AdamWStep& step, TensorView weight, TensorView gradient,
                     TensorView m, TensorView v, TensorView low) {
  require_weight(stream, weight, low);
  require_space(stream, gradient);
  for (const TensorView* records : {&m, &v}) {
    require_space(stream, *records);
    HETMEM_ASSERT(records->dtype == DType::kUint8 &&
                  records->bytes() == list_bytes(DType::kUint8, weight.elements()));
  }
  if (on_cuda(stream)) {
    return cuda_backend::adamw_8bit_step(stream, step, weight, gradient, m, v, low);
  }
  enqueue(stream, "adamw_8bit_step",
          [=](ThreadPool& pool) { cpu::adamw_8bit_step(pool, step, weight, gradient, m, v, low); });
}

void sgd_step(Stream& stream, const SgdStep& step, TensorView weight, TensorView gradient,
              TensorView momentum, TensorView low) {
  require_weight(stream, weight, low);
  for (const TensorView* view : {&gradient, &momentum}) require_space(stream, *view);
  if (on_cuda(stream)) return cuda_backend::sgd_step(stream, step, weight, gradient, momentum, low);
  enqueue(stream, "sgd_step",
          [=](ThreadPool& pool) { cpu::sgd_step(pool, step, weight, gradient, momentum, low); });
}

void sum_of_squares(Stream& stream, TensorView values, TensorView sum, bool accumulate) {
  for (const TensorView* view : {&values, &sum}) require_space(stream, *view);
  if (on_cuda(stream)) return cuda_backend::sum_of_squares(stream, values, sum, accumulate);
  enqueue(stream, "sum_of_squares",
          [=](ThreadPool& pool) { cpu::sum_of_squares(pool, values, sum, accumulate); });
}

}  // namespace hetmem::ops
