// Ops whose weight comes in blocks of rows: against the plain double version and the whole call.
#include <gtest/gtest.h>

#include "backend_cases.h"
#include "ops/ops.h"

namespace hetmem::testing_ops {
namespace {

std::vector<Shape> input_shapes(const OpCase& op) {
  std::vector<Shape> shapes;
  for (const Operand& operand : op.inputs) shapes.push_back(operand.shape);
  return shapes;
}

class Parts : public testing::TestWithParam<PartsCase> {};

// Every row of the weight once a token block and stage, in order, with the tokens in order.
TEST_P(Parts, CoverTheWholeOp) {
  const auto& [op, weight_rows, token_blocks] = GetParam();
  for (const int64_t block_rows : parts_block_rows()) {
    const int64_t rows = is_whole_weight(block_rows) ? weight_rows : block_rows;
    const int64_t blocks = (weight_rows + rows - 1) / rows;
    const auto parts =
        ops::parts(DeviceKind::kCpu, op.kind, op.params, input_shapes(op), weight_rows, block_rows);
    const int64_t stages = op.kind == OpKind::kHeadLossTrain ? 2 : 1;
    const int64_t expected = token_blocks == 0 ? blocks : token_blocks * (stages * blocks + 1);
    ASSERT_EQ(static_cast<int64_t>(parts.size()), expected);
    int64_t next_row = 0;
    int64_t tokens = 0;
    for (const OpPart& part : parts) {
      EXPECT_EQ(part.weight_rows, weight_rows);
      EXPECT_EQ(part.first_row, next_row);
      EXPECT_LE(part.rows, token_blocks > 0 && part.stage == HeadStage::kLoss ? weight_rows : rows);
      next_row = (part.first_row + part.rows) % weight_rows;
      if (token_blocks == 0 || part.stage != HeadStage::kLoss) continue;
      EXPECT_EQ(part.first_token, tokens);
      tokens += part.tokens;
    }
    EXPECT_EQ(next_row, 0);
    if (token_blocks > 0) {
      EXPECT_EQ(tokens, op.inputs[0].shape.rows());
    }
  }
}

TEST_P(Parts, AreWithinTheBoundOfTheExactValue) {
  const OpCase& op = GetParam().op;
  const Expected expected(op);
  for (const int64_t block_rows : parts_block_rows()) {
    SCOPED_TRACE(block_rows);
    expected.expect_within_bound(run_cpu_parts(op, {GetParam().weight_rows, block_rows, 2}));
  }
}

TEST_P(Parts, OfTheWholeWeightHaveTheBitsOfTheWholeCall) {
  const OpCase& op = GetParam().op;
  const Results whole = run_cpu(op, 2);
  for (const int64_t block_rows : parts_block_rows()) {
    if (!is_whole_weight(block_rows)) continue;
    EXPECT_EQ(run_cpu_parts(op, {GetParam().weight_rows, block_rows, 2}), whole) << block_rows;
  }
}

// A row of a table is made by additions in an order that blocks do not change.
TEST_P(Parts, OfEmbeddingsHaveTheBitsOfTheWholeCallForAnyBlock) {
  if (GetParam().token_blocks > 0) return;
  const OpCase& op = GetParam().op;
  const Results whole = run_cpu(op, 2);
  for (const int64_t block_rows : parts_block_rows()) {
    EXPECT_EQ(run_cpu_parts(op, {GetParam().weight_rows, block_rows, 2}), whole) << block_rows;
  }
}

TEST_P(Parts, GiveTheSameBitsForAnyNumberOfThreads) {
  for (const int64_t block_rows : {int64_t{64}, kPartsWords}) {
    const Results one = run_cpu_parts(GetParam().op, {GetParam().weight_rows, block_rows, 1});
    for (const int threads : {2, 3, 8}) {
      EXPECT_EQ(run_cpu_parts(GetParam().op, {GetParam().weight_rows, block_rows, threads}), one)
          << threads;
    }
  }
}

// Of the only block of tokens: another one would need the weight again.
TEST_P(Parts, MayWriteTheGradientOverTheWeight) {
  const OpCase& op = GetParam().op;
  if (GetParam().token_blocks != 1 || op.outputs.size() < 3 || op.runtime.accumulate) return;
  for (const int64_t block_rows : parts_block_rows()) {
    PartsRun run{GetParam().weight_rows, block_rows, 2};
    const Results apart = run_cpu_parts(op, run);
    run.gradient_over_weight = true;
    EXPECT_EQ(run_cpu_parts(op, run), apart) << block_rows;
  }
}

TEST_P(Parts, OfThePlainVersionMakeTheWhole) {
  const OpCase& op = GetParam().op;
  const Results whole = run_reference(op);
  for (const int64_t block_rows : parts_block_rows()) {
    EXPECT_EQ(run_reference_parts(op, {GetParam().weight_rows, block_rows, 1}), whole)
        << block_rows;
  }
}

INSTANTIATE_TEST_SUITE_P(Ops, Parts, testing::ValuesIn(parts_cases()),
                         [](const auto& tested) { return cpu_name(tested.param.op); });

TEST(PartsOfOtherOps, AreOneDefaultPart) {
  const auto parts =
      ops::parts(DeviceKind::kCpu, OpKind::kLinear, LinearParams{}, {{2, 3, 5}, {4, 5}}, 4, 2);
  ASSERT_EQ(parts.size(), 1U);
  EXPECT_EQ(parts[0].rows, 0);
}

}  // namespace
}  // namespace hetmem::testing_ops
