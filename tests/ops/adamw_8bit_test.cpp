// AdamW with moments in 8 bits: the code against the published one, a step against its definition.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/error.h"
#include "device/stream.h"
#include "device/thread_pool.h"
#include "moments_8bit.h"
#include "op_case.h"
#include "ops/cpu/isa/kernel_table.h"
#include "optimizer_cases.h"

namespace hetmem::testing_ops {
namespace {

constexpr auto kBlock = static_cast<size_t>(kMomentBlock);

const ops::MomentCode& code_of(bool has_sign) {
  return has_sign ? ops::first_moment_code() : ops::second_moment_code();
}

// What every code stands for where the scale is 1.
std::vector<float> decoded(bool has_sign) {
  std::vector<uint8_t> codes;
  for (int i = 0; i < 256; ++i) codes.push_back(static_cast<uint8_t>(i));
  std::vector<float> values(kBlock);
  ops::cpu::kernel_table().decode_moments(code_of(has_sign), codes.data(), 1.0F, values.data());
  return values;
}

class MomentCodes : public testing::TestWithParam<bool> {};

// The lines that values lie on are rounded twice, from numbers of up to 1.8 times their decade.
TEST_P(MomentCodes, StandForThePublishedValues) {
  const std::vector<double> published = published_code(GetParam());
  const std::vector<float> values = decoded(GetParam());
  ASSERT_EQ(published.size(), 256U);
  for (size_t i = 0; i < 256; ++i) {
    EXPECT_NEAR(values[i], published[i], std::abs(published[i]) * 20 * 2 * 0x1p-24) << i;
  }
  // Numbers of the table that bitsandbytes prints.
  EXPECT_EQ(values[255], 1.0F);
  EXPECT_FLOAT_EQ(values[254], GetParam() ? 0.99296875F : 0.996484375F);
  EXPECT_FLOAT_EQ(values[GetParam() ? 128 : 1], GetParam() ? 5.5e-7F : 3.25e-7F);
  EXPECT_EQ(values[GetParam() ? 127 : 0], 0.0F);
  if (GetParam()) {
    EXPECT_FLOAT_EQ(values[0], -0.99296875F);
  }
}

TEST_P(MomentCodes, OfTheirOwnValuesAreThemselves) {
  std::vector<float> values = decoded(GetParam());
  for (const float scale : {1.0F, 3.7e-9F, 12345.0F}) {
    std::vector<float> scaled;
    for (const float value : values) scaled.push_back(value * scale);
    std::vector<uint8_t> codes(kBlock);
    EXPECT_EQ(
        ops::cpu::kernel_table().encode_moments(code_of(GetParam()), scaled.data(), codes.data()),
        scale);
    for (size_t i = 0; i < kBlock; ++i) EXPECT_EQ(codes[i], i) << scale;
  }
}

// No published value is nearer, rounding apart: the fraction is off by three roundings, the place
// on its line by two of numbers up to 2^8.
TEST_P(MomentCodes, AreOfTheNearestValue) {
  const std::vector<double> published = published_code(GetParam());
  for (int block = 0; block < 200; ++block) {
    std::vector<float> x(kBlock);
    float most = 0.0F;
    for (size_t i = 0; i < kBlock; ++i) {
      const Operand draw = normal({2}, 1000 * static_cast<uint64_t>(block) + i);
      const double size = std::pow(10.0, -2.0 * std::abs(draw.numbers[0]));
      x[i] = static_cast<float>(draw.numbers[1] > 0 || !GetParam() ? size : -size);
      most = std::max(most, std::abs(x[i]));
    }
    std::vector<uint8_t> codes(kBlock);
    ASSERT_EQ(ops::cpu::kernel_table().encode_moments(code_of(GetParam()), x.data(), codes.data()),
              most);
    for (size_t i = 0; i < kBlock; ++i) {
      const double fraction = static_cast<double>(x[i]) / most;
      double nearest = 2;
      for (const double value : published) nearest = std::min(nearest, std::abs(value - fraction));
      ASSERT_LE(std::abs(published[codes[i]] - fraction),
                nearest + std::abs(fraction) * 16 * 0x1p-24)
          << fraction;
    }
  }
}

TEST_P(MomentCodes, OfBlocksBelowTheNormalNumbersAreZero) {
  std::vector<float> x(kBlock, std::numeric_limits<float>::denorm_min());
  x[3] = 0x1p-127F;
  std::vector<uint8_t> codes(kBlock);
  EXPECT_EQ(ops::cpu::kernel_table().encode_moments(code_of(GetParam()), x.data(), codes.data()),
            0.0F);
  std::vector<float> values(kBlock, 1.0F);
  ops::cpu::kernel_table().decode_moments(code_of(GetParam()), codes.data(), 0.0F, values.data());
  EXPECT_EQ(values, std::vector<float>(kBlock, 0.0F));
}

INSTANTIATE_TEST_SUITE_P(Moments, MomentCodes, testing::Bool(),
                         [](const auto& tested) { return tested.param ? "first" : "second"; });

// ---- steps ------------------------------------------------------------------------------------

constexpr int64_t kCount = 70 * 1024 + 77;  // more than a task, and part of a block

template <typename Number>
TensorView view(std::vector<Number>& numbers, DType dtype, int64_t begin, int64_t count) {
  return {numbers.data() + begin, dtype, Shape{count}, MemorySpace::kDevice};
}

std::vector<float> draw(uint64_t stream) {
  Operand operand = normal({kCount}, stream);
  // Magnitudes that differ from block to block, and a block of zeros.
  for (size_t i = 0; i < operand.numbers.size(); ++i) {
    const size_t block = i / kBlock;
    operand.numbers[i] *= block == 5 ? 0.0 : std::pow(10.0, -static_cast<double>(block % 7));
  }
  return {operand.numbers.begin(), operand.numbers.end()};
}

struct Stepper {
  explicit Stepper(int threads) : pool(threads), stream("compute", pool) {}
  // A step of elements [begin, begin + count).
  void step(int t, int64_t begin, int64_t count) {
    ops::adamw_8bit_step(stream, adamw_step(t), view(w, DType::kFloat32, begin, count),
                         view(g, DType::kFloat32, begin, count), moments.m_of(begin, count),
                         moments.v_of(begin, count));
    stream.synchronize();
  }

  std::vector<float> w = with_edges(draw(1));
  std::vector<float> g = draw(2);
  CodedState moments{kCount};
  ThreadPool pool;
  CpuStream stream;
};

// The step by its definition, a block at a time: decoded, stepped in fp32, encoded.
void step_by_definition(Stepper& run, int t) {
  const ops::cpu::KernelTable& kernels = ops::cpu::kernel_table();
  for (size_t begin = 0; begin < static_cast<size_t>(kCount); begin += kBlock) {
    const size_t count = std::min(kBlock, static_cast<size_t>(kCount) - begin);
    const auto record_of = [&](bool first) {
      std::vector<uint8_t>& records = first ? run.moments.m : run.moments.v;
      return records.data() + begin / kBlock * static_cast<size_t>(kMomentRecordBytes);
    };
    std::vector<float> moments[2];
    for (const bool first : {true, false}) {
      const uint8_t* record = record_of(first);
      float scale = 0;
      std::memcpy(&scale, record + kBlock, sizeof(scale));
      const std::vector<float> values = decoded(first);
      for (size_t i = 0; i < count; ++i) {
        moments[first ? 0 : 1].push_back(values[record[i]] * scale);
      }
    }
    const auto view_of = [count](float* numbers) {
      return TensorView(numbers, DType::kFloat32, Shape{static_cast<int64_t>(count)},
                        MemorySpace::kDevice);
    };
    ops::adamw_step(run.stream, ops::without_second_correction(adamw_step(t)),
                    view_of(run.w.data() + begin), view_of(run.g.data() + begin),
                    view_of(moments[0].data()), view_of(moments[1].data()));
    run.stream.synchronize();
    for (const bool first : {true, false}) {
      std::vector<float> whole = moments[first ? 0 : 1];
      whole.resize(kBlock, 0.0F);
      const float scale = kernels.encode_moments(code_of(first), whole.data(), record_of(first));
      std::memcpy(record_of(first) + kBlock, &scale, sizeof(scale));
    }
  }
}

TEST(AdamW8Bit, IsAStepInFp32OnWhatTheCodesStandFor) {
  Stepper expected(1);
  Stepper one(1);
  Stepper three(3);
  for (int t = 1; t <= 3; ++t) {
    step_by_definition(expected, t);
    for (Stepper* run : {&one, &three}) {
      run->step(t, 0, kCount);
      EXPECT_EQ(bits_of(run->w), bits_of(expected.w)) << t;
      EXPECT_EQ(run->moments, expected.moments) << t;
    }
  }
}

TEST(AdamW8Bit, OfPiecesOfWholeBlocksIsThatOfTheTensor) {
  Stepper whole(2);
  Stepper pieces(2);
  for (int t = 1; t <= 2; ++t) {
    whole.step(t, 0, kCount);
    int64_t begin = 0;
    for (const int64_t blocks : {1, 37, 100, 1000}) {
      const int64_t count = std::min(blocks * kMomentBlock, kCount - begin);
      pieces.step(t, begin, count);
      begin += count;
    }
    ASSERT_EQ(begin, kCount);
    EXPECT_EQ(bits_of(pieces.w), bits_of(whole.w));
    EXPECT_EQ(pieces.moments, whole.moments);
  }
}

TEST(AdamW8Bit, OnASplitMasterHasTheBitsOfThatOnFp32) {
  Stepper plain(2);
  Stepper split(2);
  SplitWeights weights(plain.w);
  for (int t = 1; t <= 3; ++t) {
    plain.step(t, 0, kCount);
    ops::adamw_8bit_step(split.stream, adamw_step(t), weights.high_view(),
                         view(split.g, DType::kFloat32, 0, kCount), split.moments.m_of(0, kCount),
                         split.moments.v_of(0, kCount), weights.low_view());
    split.stream.synchronize();
    EXPECT_EQ(weights.bits(), bits_of(plain.w));
    EXPECT_EQ(split.moments, plain.moments);
  }
}

// Of gradients that stay as they are, m is the gradient and v its square times the bias, and a step
// is as long as the learning rate: what 8 bits keep of the two changes it by 1.5 % at most where
// they are large in their block (half a step of the highest decade at 0.1 of the scale is 7 %).
TEST(AdamW8Bit, MovesAsFp32DoesWhereGradientsAreAlike) {
  Stepper run(2);
  for (size_t i = 0; i < run.g.size(); ++i) run.g[i] = i % 2 == 0 ? 0.5F : -0.4F;
  std::vector<float> w = run.w;
  std::vector<float> m(run.w.size(), 0.0F);
  std::vector<float> v = m;
  for (int t = 1; t <= 20; ++t) {
    run.step(t, 0, kCount);
    ops::adamw_step(run.stream, adamw_step(t), view(w, DType::kFloat32, 0, kCount),
                    view(run.g, DType::kFloat32, 0, kCount), view(m, DType::kFloat32, 0, kCount),
                    view(v, DType::kFloat32, 0, kCount));
    run.stream.synchronize();
  }
  const float rate = adamw_step(1).learning_rate;
  for (size_t i = 400; i < w.size(); ++i) {
    ASSERT_NEAR(run.w[i], w[i], 20 * 0.015 * static_cast<double>(rate)) << i;
  }
}

// A gradient whose square overflows is one of the largest that count, in its block, and nothing in
// the others.
TEST(AdamW8Bit, OfAnElementThatOverflowsSparesTheOthers) {
  constexpr size_t kLast = static_cast<size_t>(kCount) / kBlock;  // part of a block
  for (const auto& [block, huge] : {std::pair<size_t, float>{3, 1e20F},
                                    {3, -1e20F},
                                    {3, std::numeric_limits<float>::max()},
                                    {kLast, 1e20F}}) {
    const size_t at = block * kBlock + 5;
    Stepper run(1);
    Stepper bounded(1);
    Stepper plain(1);
    for (int t = 1; t <= 3; ++t) {
      const float largest = 0x1p63F / adamw_step(t).gradient_scale;
      run.g[at] = t == 1 ? huge : plain.g[at];
      bounded.g[at] = t == 1 ? std::copysign(largest, huge) : plain.g[at];
      for (Stepper* each : {&run, &bounded, &plain}) each->step(t, 0, kCount);
      EXPECT_EQ(bits_of(run.w), bits_of(bounded.w)) << t;
      EXPECT_EQ(run.moments, bounded.moments) << t;
      float scale = 0;
      const size_t record = block * static_cast<size_t>(kMomentRecordBytes);
      std::memcpy(&scale, run.moments.v.data() + record + kBlock, sizeof(scale));
      EXPECT_TRUE(std::isfinite(scale));
      // The others, with what their block's scale leaves of them; other blocks as if nothing were.
      std::vector<float> beside = run.w;
      for (size_t i = block * kBlock; i < std::min((block + 1) * kBlock, run.w.size()); ++i) {
        ASSERT_TRUE(std::isfinite(run.w[i])) << i;
        beside[i] = plain.w[i];
      }
      EXPECT_EQ(bits_of(beside), bits_of(plain.w)) << t;
    }
  }
}

TEST(AdamW8Bit, RefusesMomentsThatDoNotFit) {
  Stepper run(1);
  EXPECT_THROW(ops::adamw_8bit_step(run.stream, {}, view(run.w, DType::kFloat32, 0, kCount),
                                    view(run.g, DType::kFloat32, 0, kCount),
                                    run.moments.m_of(0, kCount), run.moments.v_of(0, 7)),
               Error);
}

}  // namespace
}  // namespace hetmem::testing_ops
