#include <algorithm>

#include "core/philox.h"
#include "ops/cpu/isa/kernel_table.h"
#include "ops/cpu/kernels.h"

namespace hetmem::ops::cpu {
namespace {

constexpr int64_t kBlock = 16384;  // elements of a task

bool tanh_form(const OpCall& call) { return std::get<GeluParams>(call.params).tanh; }

}  // namespace

void rope(ThreadPool& pool, const OpCall& call) {
  const auto& params = std::get<RopeParams>(call.params);
  const TensorView& x = call.inputs[0];
  const auto* table = call.inputs[1].as<float>();
  auto* y = call.outputs[0].as<float>();
  const int64_t width = x.shape[-1];
  const int64_t time = x.shape[1];
  constexpr int64_t kRows = 16;
  pool.parallel_blocks(x.shape.rows(), kRows, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      kernel_table().rope_row(x.as<float>() + row * width, table + row % time * params.head_dim,
                              params.inverse, y + row * width, width / params.head_dim,
                              params.head_dim);
    }
  });
}

void gelu(ThreadPool& pool, const OpCall& call) {
  const auto* x = call.inputs[0].as<float>();
  auto* y = call.outputs[0].as<float>();
  pool.parallel_blocks(call.inputs[0].elements(), kBlock, [&](int64_t begin, int64_t end) {
    kernel_table().gelu(x + begin, y + begin, end - begin, tanh_form(call));
  });
}

void gelu_backward(ThreadPool& pool, const OpCall& call) {
  const auto* dy = call.inputs[0].as<float>();
  const auto* x = call.inputs[1].as<float>();
  auto* dx = call.outputs[0].as<float>();
  pool.parallel_blocks(call.inputs[0].elements(), kBlock, [&](int64_t begin, int64_t end) {
    kernel_table().gelu_backward(dy + begin, x + begin, dx + begin, end - begin, tanh_form(call));
  });
}

void swiglu(ThreadPool& pool, const OpCall& call) {
  const auto* gate = call.inputs[0].as<float>();
  const auto* up = call.inputs[1].as<float>();
  auto* y = call.outputs[0].as<float>();
  pool.parallel_blocks(call.inputs[0].elements(), kBlock, [&](int64_t begin, int64_t end) {
    kernel_table().swiglu(gate + begin, up + begin, y + begin, end - begin);
  });
}

void swiglu_backward(ThreadPool& pool, const OpCall& call) {
  const auto* dy = call.inputs[0].as<float>();
  const auto* gate = call.inputs[1].as<float>();
  const auto* up = call.inputs[2].as<float>();
  auto* dgate = call.outputs[0].as<float>();
  auto* dup = call.outputs[1].as<float>();
  pool.parallel_blocks(call.inputs[0].elements(), kBlock, [&](int64_t begin, int64_t end) {
    kernel_table().swiglu_backward(dy + begin, gate + begin, up + begin, dgate + begin, dup + begin,
                                   end - begin);
  });
}

void add(ThreadPool& pool, const OpCall& call) {
  const auto* a = call.inputs[0].as<float>();
  const auto* b = call.inputs[1].as<float>();
  auto* y = call.outputs[0].as<float>();
  pool.parallel_blocks(call.inputs[0].elements(), kBlock, [&](int64_t begin, int64_t end) {
    kernel_table().add(a + begin, b + begin, y + begin, end - begin);
  });
}

void dropout(ThreadPool& pool, const OpCall& call) {
  const auto& params = std::get<DropoutParams>(call.params);
  const auto* x = call.inputs[0].as<float>();
  auto* y = call.outputs[0].as<float>();
  const float kept = 1.0F / (1.0F - params.p);
  pool.parallel_blocks(call.inputs[0].elements(), kBlock, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i += 4) {
      const auto words = philox(call.runtime.random_key, params.site, static_cast<uint64_t>(i / 4));
      for (int64_t j = i; j < std::min(end, i + 4); ++j) {
        const float draw = uniform_from_bits(words[static_cast<size_t>(j - i)]);
        y[j] = draw >= params.p ? x[j] * kept : 0.0F;
      }
    }
  });
}

}  // namespace hetmem::ops::cpu
