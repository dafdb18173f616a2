// Optimizer steps and sums of squares: the bits of the written order of operations.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "device/stream.h"
#include "device/thread_pool.h"
#include "op_case.h"
#include "ops/ops.h"
#include "optimizer_cases.h"

namespace hetmem::testing_ops {
namespace {

constexpr int64_t kCount = 3 * ops::kSumBlock + 1001;

struct State {
  explicit State(int threads) : pool(threads), stream("compute", pool) {}
  static TensorView view(std::vector<float>& numbers, MemorySpace space = MemorySpace::kDevice) {
    return {numbers.data(), DType::kFloat32, Shape{static_cast<int64_t>(numbers.size())}, space};
  }
  static TensorView view(double& number, MemorySpace space = MemorySpace::kDevice) {
    return {&number, DType::kFloat64, Shape{1}, space};
  }
  static std::vector<float> draw(uint64_t stream) {
    const Operand operand = normal({kCount}, stream);
    return {operand.numbers.begin(), operand.numbers.end()};
  }

  std::vector<float> w = draw(1);
  std::vector<float> g = draw(2);
  std::vector<float> m = std::vector<float>(kCount, 0.0F);
  std::vector<float> v = std::vector<float>(kCount, 0.0F);
  ThreadPool pool;
  CpuStream stream;
};

TEST(AdamW, HasTheBitsOfItsWrittenOrder) {
  for (const int threads : {1, 2, 3, 8}) {
    State at(threads);
    std::vector<float> w = at.w;
    std::vector<float> m = at.m;
    std::vector<float> v = at.v;
    for (int t = 1; t <= 3; ++t) {
      const ops::AdamWStep step = adamw_step(t);
      ops::adamw_step(at.stream, step, State::view(at.w), State::view(at.g), State::view(at.m),
                      State::view(at.v));
      at.stream.synchronize();
      for (size_t i = 0; i < w.size(); ++i) {
        const float g = at.g[i] * step.gradient_scale;
        m[i] = m[i] + (1.0F - step.beta1) * (g - m[i]);
        v[i] = step.beta2 * v[i] + (1.0F - step.beta2) * (g * g);
        const float denominator = std::sqrt(v[i]) / step.bias_correction2_sqrt + step.epsilon;
        w[i] = w[i] * (1.0F - step.learning_rate * step.weight_decay) -
               step.learning_rate / step.bias_correction1 * (m[i] / denominator);
      }
      EXPECT_EQ(at.w, w);
      EXPECT_EQ(at.m, m);
      EXPECT_EQ(at.v, v);
    }
  }
}

TEST(Sgd, HasTheBitsOfItsWrittenOrder) {
  for (const int threads : {1, 2, 3, 8}) {
    State at(threads);
    std::vector<float> w = at.w;
    std::vector<float> buffer = at.m;
    for (const bool first : {true, false}) {
      const ops::SgdStep step{0.1F, 0.9F, 0.01F, 0.5F, first};
      ops::sgd_step(at.stream, step, State::view(at.w), State::view(at.g), State::view(at.m));
      at.stream.synchronize();
      for (size_t i = 0; i < w.size(); ++i) {
        const float d = at.g[i] * step.gradient_scale + step.weight_decay * w[i];
        buffer[i] = first ? d : step.momentum * buffer[i] + d;
        w[i] = w[i] - step.learning_rate * buffer[i];
      }
      EXPECT_EQ(at.w, w);
      EXPECT_EQ(at.m, buffer);
    }
  }
}

TEST(AdamW, OnASplitMasterHasTheBitsOfThatOnFp32) {
  for (const int threads : {1, 3}) {
    State plain(threads);
    State at(threads);
    plain.w = with_edges(plain.w);
    SplitWeights split(plain.w);
    ASSERT_EQ(split.bits(), bits_of(plain.w));
    for (int t = 1; t <= 3; ++t) {
      ops::adamw_step(plain.stream, adamw_step(t), State::view(plain.w), State::view(plain.g),
                      State::view(plain.m), State::view(plain.v));
      ops::adamw_step(at.stream, adamw_step(t), split.high_view(), State::view(at.g),
                      State::view(at.m), State::view(at.v), split.low_view());
      plain.stream.synchronize();
      at.stream.synchronize();
      EXPECT_EQ(split.bits(), bits_of(plain.w));
      EXPECT_EQ(at.m, plain.m);
      EXPECT_EQ(at.v, plain.v);
    }
  }
}

TEST(Sgd, OnASplitMasterHasTheBitsOfThatOnFp32) {
  for (const int threads : {1, 3}) {
    State plain(threads);
    State at(threads);
    plain.w = with_edges(plain.w);
    SplitWeights split(plain.w);
    for (const bool first : {true, false}) {
      const ops::SgdStep step{0.1F, 0.9F, 0.01F, 0.5F, first};
      ops::sgd_step(plain.stream, step, State::view(plain.w), State::view(plain.g),
                    State::view(plain.m));
      ops::sgd_step(at.stream, step, split.high_view(), State::view(at.g), State::view(at.m),
                    split.low_view());
      plain.stream.synchronize();
      at.stream.synchronize();
      EXPECT_EQ(split.bits(), bits_of(plain.w));
      EXPECT_EQ(at.m, plain.m);
    }
  }
}

// A bf16 weight without its low part would lose what a step adds.
TEST(Optimizers, RefuseHalfOfASplitMaster) {
  State at(1);
  SplitWeights split(at.w);
  EXPECT_THROW(
      ops::sgd_step(at.stream, {}, split.high_view(), State::view(at.g), State::view(at.m)), Error);
  EXPECT_THROW(ops::sgd_step(at.stream, {}, State::view(at.w), State::view(at.g), State::view(at.m),
                             split.low_view()),
               Error);
}

TEST(SumOfSquares, IsExactToDoubleAndTheSameForAnyNumberOfThreads) {
  double exact = 0;
  std::vector<double> sums;
  for (const int threads : {1, 2, 3, 8}) {
    State at(threads);
    double sum = 0;
    ops::sum_of_squares(at.stream, State::view(at.g), State::view(sum));
    at.stream.synchronize();
    sums.push_back(sum);
    long double total = 0;
    for (const float x : at.g) total += static_cast<long double>(x) * x;
    exact = static_cast<double>(total);
  }
  for (const double sum : sums) EXPECT_EQ(sum, sums[0]);
  // A lane of a block adds kSumBlock / 16 terms, then 16 lanes and 4 blocks.
  EXPECT_NEAR(sums[0], exact, exact * (ops::kSumBlock / 16.0 + 8) * 0x1p-53);
}

TEST(SumOfSquares, GoesOnInPiecesOfWholeBlocks) {
  State at(2);
  double whole = 0;
  ops::sum_of_squares(at.stream, State::view(at.g), State::view(whole));
  double pieces = 1e300;  // overwritten by the first
  for (int64_t begin = 0; begin < kCount; begin += 2 * ops::kSumBlock) {
    const TensorView piece(at.g.data() + begin, DType::kFloat32,
                           Shape{std::min(2 * ops::kSumBlock, kCount - begin)},
                           MemorySpace::kDevice);
    ops::sum_of_squares(at.stream, piece, State::view(pieces), begin > 0);
  }
  at.stream.synchronize();
  EXPECT_EQ(pieces, whole);
}

TEST(Optimizers, RunOnHostMemoryThroughAHostStream) {
  constexpr auto kHost = MemorySpace::kHost;
  State device(2);
  State host(2);
  CpuStream stream("host", host.pool, kHost);
  double device_sum = 0;
  double host_sum = 0;
  const ops::AdamWStep adamw{0.01F};
  const ops::SgdStep sgd{0.01F};
  ops::adamw_step(device.stream, adamw, State::view(device.w), State::view(device.g),
                  State::view(device.m), State::view(device.v));
  ops::sgd_step(device.stream, sgd, State::view(device.w), State::view(device.g),
                State::view(device.m));
  ops::sum_of_squares(device.stream, State::view(device.w), State::view(device_sum));
  ops::adamw_step(stream, adamw, State::view(host.w, kHost), State::view(host.g, kHost),
                  State::view(host.m, kHost), State::view(host.v, kHost));
  ops::sgd_step(stream, sgd, State::view(host.w, kHost), State::view(host.g, kHost),
                State::view(host.m, kHost));
  ops::sum_of_squares(stream, State::view(host.w, kHost), State::view(host_sum, kHost));
  device.stream.synchronize();
  stream.synchronize();
  EXPECT_EQ(host.w, device.w);
  EXPECT_EQ(host_sum, device_sum);
  // Memory of another space than the stream's is refused before anything runs.
  EXPECT_THROW(ops::sum_of_squares(stream, State::view(host.w), State::view(host_sum, kHost)),
               Error);
  EXPECT_THROW(
      ops::sum_of_squares(device.stream, State::view(device.w), State::view(device_sum, kHost)),
      Error);
}

}  // namespace
}  // namespace hetmem::testing_ops
