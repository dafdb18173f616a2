// Optimizer steps and sums of squares of the CUDA backend: the bits of the CPU's. Attention over a
// cache: that of the whole sequence.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "cuda_backends.h"
#include "device/thread_pool.h"
#include "moments_8bit.h"
#include "optimizer_cases.h"

namespace hetmem::testing_ops {
namespace {

constexpr int64_t kCount = 2 * ops::kSumBlock + 1001;

class CudaOptimizers : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (!backend().unavailable.empty()) GTEST_SKIP() << backend().unavailable;
  }
  static const CudaBackend& backend() { return cuda_backend(GetParam()); }
};

template <typename Real>
TensorView view(std::vector<Real>& numbers) {
  const DType dtype = sizeof(Real) == sizeof(float) ? DType::kFloat32 : DType::kFloat64;
  return {numbers.data(), dtype, Shape{static_cast<int64_t>(numbers.size())}, MemorySpace::kDevice};
}

std::vector<float> draw(uint64_t stream) {
  const Operand operand = normal({kCount}, stream);
  return {operand.numbers.begin(), operand.numbers.end()};
}

struct State {
  std::vector<float> w = draw(1);
  std::vector<float> g = draw(2);
  std::vector<float> m = std::vector<float>(kCount, 0.0F);
  std::vector<float> v = std::vector<float>(kCount, 0.0F);
};

// The CPU backend on a state.
template <typename Step>
void on_cpu(const Step& step) {
  ThreadPool pool(2);
  CpuStream stream("compute", pool);
  step(stream);
  stream.synchronize();
}

TEST_P(CudaOptimizers, AdamWHasTheBitsOfTheCpu) {
  State cuda;
  State cpu;
  for (int t = 1; t <= 3; ++t) {
    const ops::AdamWStep step = adamw_step(t);
    backend().adamw_step(step, view(cuda.w), view(cuda.g), view(cuda.m), view(cuda.v), {});
    on_cpu([&](Stream& stream) {
      ops::adamw_step(stream, step, view(cpu.w), view(cpu.g), view(cpu.m), view(cpu.v));
    });
    EXPECT_EQ(cuda.w, cpu.w);
    EXPECT_EQ(cuda.m, cpu.m);
    EXPECT_EQ(cuda.v, cpu.v);
  }
}

TEST_P(CudaOptimizers, SgdHasTheBitsOfTheCpu) {
  State cuda;
  State cpu;
  for (const bool first : {true, false}) {
    const ops::SgdStep step{0.1F, 0.9F, 0.01F, 0.5F, first};
    backend().sgd_step(step, view(cuda.w), view(cuda.g), view(cuda.m), {});
    on_cpu([&](Stream& stream) {
      ops::sgd_step(stream, step, view(cpu.w), view(cpu.g), view(cpu.m));
    });
    EXPECT_EQ(cuda.w, cpu.w);
    EXPECT_EQ(cuda.m, cpu.m);
  }
}

TEST_P(CudaOptimizers, HaveTheBitsOfFp32OnASplitMaster) {
  State cuda;
  State cpu;
  cpu.w = with_edges(cpu.w);
  SplitWeights split(cpu.w);
  for (int t = 1; t <= 2; ++t) {
    backend().adamw_step(adamw_step(t), split.high_view(), view(cuda.g), view(cuda.m), view(cuda.v),
                         split.low_view());
    on_cpu([&](Stream& stream) {
      ops::adamw_step(stream, adamw_step(t), view(cpu.w), view(cpu.g), view(cpu.m), view(cpu.v));
    });
    EXPECT_EQ(split.bits(), bits_of(cpu.w));
  }
  const ops::SgdStep step{0.1F, 0.9F, 0.01F, 0.5F, false};
  backend().sgd_step(step, split.high_view(), view(cuda.g), view(cuda.m), split.low_view());
  on_cpu(
      [&](Stream& stream) { ops::sgd_step(stream, step, view(cpu.w), view(cpu.g), view(cpu.m)); });
  EXPECT_EQ(split.bits(), bits_of(cpu.w));
}

// A gradient of zero in one block, one whose square overflows, and a part of a block at the end.
TEST_P(CudaOptimizers, AdamW8BitHasTheBitsOfTheCpu) {
  State cuda;
  State cpu;
  std::fill_n(cuda.g.begin(), 3 * kMomentBlock, 0.0F);
  cuda.g[4 * kMomentBlock] = -1e20F;
  cuda.g[kCount - 3] = 1e20F;
  cpu.g = cuda.g;
  cpu.w = with_edges(cpu.w);
  SplitWeights split(cpu.w);
  CodedState coded(kCount);
  CodedState coded_cpu(kCount);
  for (int t = 1; t <= 3; ++t) {
    backend().adamw_8bit_step(adamw_step(t), split.high_view(), view(cuda.g), coded.m_of(0, kCount),
                              coded.v_of(0, kCount), split.low_view());
    on_cpu([&](Stream& stream) {
      ops::adamw_8bit_step(stream, adamw_step(t), view(cpu.w), view(cpu.g),
                           coded_cpu.m_of(0, kCount), coded_cpu.v_of(0, kCount));
    });
    EXPECT_EQ(split.bits(), bits_of(cpu.w));
    EXPECT_EQ(coded, coded_cpu);
  }
}

TEST_P(CudaOptimizers, SumsOfSquaresHaveTheBitsOfTheCpu) {
  for (const int64_t count : {int64_t{1}, int64_t{37}, ops::kSumBlock, kCount}) {
    std::vector<float> numbers = draw(3);
    numbers.resize(static_cast<size_t>(count));
    for (const bool accumulate : {false, true}) {
      std::vector<double> cuda{3.25};
      std::vector<double> cpu{3.25};
      backend().sum_of_squares(view(numbers), view(cuda), accumulate);
      on_cpu([&](Stream& stream) {
        ops::sum_of_squares(stream, view(numbers), view(cpu), accumulate);
      });
      EXPECT_EQ(cuda, cpu) << count;
    }
  }
}

// Rows [first, first + count) of q, k and v that lie side by side, [T, width].
std::vector<float> rows_of(const Operand& all, int64_t first, int64_t count) {
  const auto width = all.shape[-1];
  return {all.numbers.begin() + first * width, all.numbers.begin() + (first + count) * width};
}

TEST_P(CudaOptimizers, AttentionOverACacheIsThatOfTheWholeSequence) {
  AttentionParams params;
  params.heads = 6;
  params.kv_heads = 2;
  params.head_dim = 20;
  params.packed = true;
  params.scale = 0.3F;
  const int64_t total = 150;
  const int64_t width = params.heads * params.head_dim;
  const Operand qkv = normal({1, total, (6 + 2 * 2) * 20}, 5);
  const OpCase whole{
      "whole", OpKind::kAttention, params, {qkv}, {{1, total, width}, {1, params.heads, total}},
      {}};
  const Results expected = run_reference(whole);
  std::vector<float> keys(static_cast<size_t>(total * 2 * 20));
  std::vector<float> values = keys;
  int64_t position = 0;
  for (const int64_t count : {5, 1, 1, 64, 1, 65, 13}) {
    std::vector<float> fresh = rows_of(qkv, position, count);
    std::vector<float> o(static_cast<size_t>(count * width));
    std::vector<float> lse(static_cast<size_t>(count * params.heads));
    OpCall call;
    call.kind = OpKind::kAttention;
    call.params = params;
    call.inputs = {view(fresh).reshaped({1, count, qkv.shape[-1]})};
    call.outputs = {view(o).reshaped({1, count, width}),
                    view(lse).reshaped({1, params.heads, count})};
    backend().cached_attention(call, {view(keys).reshaped({2, total, 20}),
                                      view(values).reshaped({2, total, 20}), position});
    for (size_t i = 0; i < o.size(); ++i) {
      ASSERT_NEAR(o[i], expected[0][static_cast<size_t>(position * width) + i], 2e-5)
          << "position " << position << ", element " << i;
    }
    position += count;
  }
  EXPECT_EQ(position, total);
}

INSTANTIATE_TEST_SUITE_P(Backends, CudaOptimizers, testing::ValuesIn(cuda_backend_names()),
                         [](const auto& tested) { return tested.param; });

}  // namespace
}  // namespace hetmem::testing_ops
