// Ops whose weight comes in blocks of rows: against the plain double version and the whole call.
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "error_bound.h"
#include "op_case.h"
#include "ops/ops.h"

namespace hetmem::testing_ops {
namespace {

struct PartsCase {
  OpCase op;
  int64_t weight_rows;
  int64_t token_blocks;  // 0: no head
};

constexpr int64_t kWords = 301;
constexpr int64_t kWidth = 40;
const std::vector<int64_t> kBlocks{64, 100, 300, kWords, 1000, 0};
bool is_whole(int64_t block_rows) { return block_rows <= 0 || block_rows >= kWords; }

Operand words(const Shape& shape, bool ignored) {
  Operand operand{shape, {}, {}};
  for (int64_t i = 0; i < shape.elements(); ++i) {
    const auto word = static_cast<int32_t>(i * 7919 % kWords);
    operand.integers.push_back(ignored && i % 5 == 1 ? -100 : word);
  }
  return operand;
}

void append_embeddings(std::vector<PartsCase>& cases) {
  const Operand tokens = words({2, 70}, false);
  for (const bool positions : {false, true}) {
    const std::string name = positions ? "positions" : "plain";
    const EmbeddingParams params{positions, false};
    std::vector<Operand> inputs{tokens, normal({kWords, kWidth}, 2)};
    std::vector<Shape> gradients{{kWords, kWidth}};
    if (positions) inputs.push_back(normal({73, kWidth}, 3));
    if (positions) gradients.push_back({73, kWidth});
    cases.push_back(
        {{"embedding_" + name, OpKind::kEmbedding, params, inputs, {{2, 70, kWidth}}, {}},
         kWords,
         0});
    OpCase backward{"embedding_backward_" + name,
                    OpKind::kEmbeddingBackward,
                    params,
                    {tokens, normal({2, 70, kWidth}, 4)},
                    gradients,
                    {}};
    cases.push_back({backward, kWords, 0});
    OpCase tied = backward;
    tied.name += "_tied";
    tied.params = EmbeddingParams{positions, true};
    cases.push_back({tied, kWords, 0});
    backward.name += "_accumulate";
    backward.runtime.accumulate = true;
    cases.push_back({backward, kWords, 0});
  }
}

void append_heads(std::vector<PartsCase>& cases, bool bf16) {
  // Tokens that make one, two and three blocks.
  const std::vector<std::pair<int64_t, int64_t>> sizes{
      {1, 1}, {16, 1}, {300, 2}, {33, 3}, {600, 3}};
  for (const auto& [tokens, blocks] : sizes) {
    const std::vector<Operand> inputs{normal({1, tokens, kWidth}, 20),
                                      normal({kWords, kWidth}, 21, 0.3), words({1, tokens}, true)};
    const std::string name = std::to_string(tokens) + (bf16 ? "_bf16" : "");
    HeadParams params;
    params.bf16 = bf16;
    cases.push_back(
        {{"head_" + name, OpKind::kHeadLoss, params, inputs, {Shape{1}}, {}}, kWords, blocks});
    OpCase train{"head_train_" + name,
                 OpKind::kHeadLossTrain,
                 params,
                 inputs,
                 {Shape{1}, inputs[0].shape, inputs[1].shape},
                 {}};
    train.runtime.loss_scale = 1.0 / 217;
    cases.push_back({train, kWords, blocks});
    OpCase frozen = train;
    frozen.name += "_frozen";
    params.weight_gradient = false;
    frozen.params = params;
    frozen.outputs.pop_back();
    cases.push_back({frozen, kWords, blocks});
    train.name += "_accumulate";
    train.runtime.accumulate = true;
    cases.push_back({train, kWords, blocks});
  }
}

std::vector<PartsCase> all_cases() {
  std::vector<PartsCase> cases;
  append_embeddings(cases);
  append_heads(cases, false);
  if (ops::has_native_bf16()) append_heads(cases, true);
  return cases;
}

std::vector<Shape> input_shapes(const OpCase& op) {
  std::vector<Shape> shapes;
  for (const Operand& operand : op.inputs) shapes.push_back(operand.shape);
  return shapes;
}

class Parts : public testing::TestWithParam<PartsCase> {};

// Every row of the weight once a token block and stage, in order, with the tokens in order.
TEST_P(Parts, CoverTheWholeOp) {
  const auto& [op, weight_rows, token_blocks] = GetParam();
  for (const int64_t block_rows : kBlocks) {
    const int64_t rows = is_whole(block_rows) ? weight_rows : block_rows;
    const int64_t blocks = (weight_rows + rows - 1) / rows;
    const auto parts = ops::parts(op.kind, op.params, input_shapes(op), weight_rows, block_rows);
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
  const Results expected = run_reference(op);
  const Results bounds = error_bound(op);
  for (const int64_t block_rows : kBlocks) {
    const Results actual = run_cpu_parts(op, {GetParam().weight_rows, block_rows, 2});
    ASSERT_EQ(actual.size(), expected.size());
    for (size_t output = 0; output < actual.size(); ++output) {
      ASSERT_EQ(actual[output].size(), expected[output].size());
      for (size_t i = 0; i < actual[output].size(); ++i) {
        ASSERT_NEAR(actual[output][i], expected[output][i], bounds[output][i])
            << "blocks of " << block_rows << ", output " << output << ", element " << i;
      }
    }
  }
}

TEST_P(Parts, OfTheWholeWeightHaveTheBitsOfTheWholeCall) {
  const OpCase& op = GetParam().op;
  const Results whole = run_cpu(op, 2);
  for (const int64_t block_rows : kBlocks) {
    if (!is_whole(block_rows)) continue;
    EXPECT_EQ(run_cpu_parts(op, {GetParam().weight_rows, block_rows, 2}), whole) << block_rows;
  }
}

// A row of a table is made by additions in an order that blocks do not change.
TEST_P(Parts, OfEmbeddingsHaveTheBitsOfTheWholeCallForAnyBlock) {
  if (GetParam().token_blocks > 0) return;
  const OpCase& op = GetParam().op;
  const Results whole = run_cpu(op, 2);
  for (const int64_t block_rows : kBlocks) {
    EXPECT_EQ(run_cpu_parts(op, {GetParam().weight_rows, block_rows, 2}), whole) << block_rows;
  }
}

TEST_P(Parts, GiveTheSameBitsForAnyNumberOfThreads) {
  for (const int64_t block_rows : {int64_t{64}, kWords}) {
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
  for (const int64_t block_rows : kBlocks) {
    PartsRun run{GetParam().weight_rows, block_rows, 2};
    const Results apart = run_cpu_parts(op, run);
    run.gradient_over_weight = true;
    EXPECT_EQ(run_cpu_parts(op, run), apart) << block_rows;
  }
}

TEST_P(Parts, OfThePlainVersionMakeTheWhole) {
  const OpCase& op = GetParam().op;
  const Results whole = run_reference(op);
  for (const int64_t block_rows : kBlocks) {
    EXPECT_EQ(run_reference_parts(op, {GetParam().weight_rows, block_rows, 1}), whole)
        << block_rows;
  }
}

INSTANTIATE_TEST_SUITE_P(Ops, Parts, testing::ValuesIn(all_cases()),
                         [](const auto& tested) { return tested.param.op.name; });

TEST(PartsOfOtherOps, AreOneDefaultPart) {
  const auto parts = ops::parts(OpKind::kLinear, LinearParams{}, {{2, 3, 5}, {4, 5}}, 4, 2);
  ASSERT_EQ(parts.size(), 1U);
  EXPECT_EQ(parts[0].rows, 0);
}

}  // namespace
}  // namespace hetmem::testing_ops
