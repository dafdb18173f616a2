#include <utility>

#include "core/error.h"
#include "ops/cpu/kernels.h"
#include "ops/ops.h"

namespace hetmem::ops {
namespace {

CpuStream& cpu_stream(Stream& stream) {
  HETMEM_ASSERT(stream.kind() == DeviceKind::kCpu);
  return static_cast<CpuStream&>(stream);
}

void require_device(const TensorView& view) {
  HETMEM_ASSERT(view.data != nullptr && view.space == MemorySpace::kDevice);
}

}  // namespace

void launch(Stream& stream, OpCall call) {
  for (const TensorView& view : call.inputs) require_device(view);
  for (const TensorView& view : call.outputs) require_device(view);
  cpu_stream(stream).enqueue([work = std::move(call)](ThreadPool& pool) { cpu::run(pool, work); });
}

void cached_attention(Stream& stream, OpCall call, const KeyValueRows& cache) {
  for (const TensorView& view : call.inputs) require_device(view);
  for (const TensorView& view : call.outputs) require_device(view);
  for (const TensorView* view : {&cache.keys, &cache.values}) require_device(*view);
  cpu_stream(stream).enqueue([work = std::move(call), cache](ThreadPool& pool) {
    cpu::cached_attention(pool, work, cache);
  });
}

int64_t workspace_bytes(OpKind kind, const OpParams& params, const std::vector<Shape>& inputs) {
  return cpu::workspace_bytes(kind, params, inputs);
}

void adamw_step(Stream& stream, const AdamWStep& step, TensorView weight, TensorView gradient,
                TensorView m, TensorView v) {
  for (const TensorView* view : {&weight, &gradient, &m, &v}) require_device(*view);
  cpu_stream(stream).enqueue(
      [=](ThreadPool& pool) { cpu::adamw_step(pool, step, weight, gradient, m, v); });
}

void sgd_step(Stream& stream, const SgdStep& step, TensorView weight, TensorView gradient,
              TensorView momentum) {
  for (const TensorView* view : {&weight, &gradient, &momentum}) require_device(*view);
  cpu_stream(stream).enqueue(
      [=](ThreadPool& pool) { cpu::sgd_step(pool, step, weight, gradient, momentum); });
}

void sum_of_squares(Stream& stream, TensorView values, double* sum) {
  require_device(values);
  cpu_stream(stream).enqueue([=](ThreadPool& pool) { *sum = cpu::sum_of_squares(pool, values); });
}

}  // namespace hetmem::ops
