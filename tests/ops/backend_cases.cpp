#include "backend_cases.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <utility>

#include "core/dtype.h"
#include "error_bound.h"
#include "ops/ops.h"

namespace hetmem::testing_ops {
namespace {

// The same with the weight (and the positions of an embedding) stored in bf16; nothing for an op
// that does not read its weight.
std::optional<OpCase> with_bf16_weight(OpCase op) {
  if (op.kind == OpKind::kLinearBackwardWeight || op.kind == OpKind::kEmbeddingBackward) return {};
  op.name += "_bf16_weight";
  op = with_bf16_operand(op, 1);
  if (auto* linear = std::get_if<LinearParams>(&op.params)) {
    linear->bf16 = linear->bf16_weight = true;
  } else if (auto* head = std::get_if<HeadParams>(&op.params)) {
    head->bf16 = head->bf16_weight = true;
  } else if (std::get<EmbeddingParams>(op.params).has_positions) {
    op = with_bf16_operand(op, 2);
  }
  return op;
}

// The same products with operands in bf16, and what has a weight with one in bf16.
void append_bf16(std::vector<OpCase>& cases) {
  const size_t count = cases.size();
  for (size_t i = 0; i < count; ++i) {
    OpCase op = cases[i];
    if (auto* linear = std::get_if<LinearParams>(&op.params)) {
      linear->bf16 = true;
    } else if (auto* head = std::get_if<HeadParams>(&op.params)) {
      head->bf16 = true;
    } else if (!std::holds_alternative<EmbeddingParams>(op.params)) {
      continue;
    }
    if (const std::optional<OpCase> stored = with_bf16_weight(op)) cases.push_back(*stored);
    if (!multiplies_bf16(op)) continue;
    op.name += "_bf16";
    cases.push_back(op);
  }
}

// A linear op in bf16 is exactly the op on operands rounded to bf16, its bias and residual apart.
Results exact_results(const OpCase& op) {
  const auto* linear = std::get_if<LinearParams>(&op.params);
  if (linear == nullptr || !linear->bf16) return run_reference(op);
  OpCase products = op;
  for (Operand* operand : {&products.inputs[0], &products.inputs[1]}) {
    for (double& number : operand->numbers) {
      number = static_cast<double>(float_from_bf16(bf16_from_float(static_cast<float>(number))));
    }
  }
  Results results = run_reference(products);
  if (results.size() > 1) results[1] = run_reference(op)[1];  // the bias gradient: a plain sum
  return results;
}

// How much of the largest value a bound may be, so that it says something. The head's gradients
// pass through two products in bf16, of 8 bits.
double most_of(const OpCase& op) {
  const auto* head = std::get_if<HeadParams>(&op.params);
  return head != nullptr && head->bf16 ? 0.3 : 0.01;
}

void expect_near(const Results& actual, const Results& expected, const Results& bounds) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t output = 0; output < actual.size(); ++output) {
    ASSERT_EQ(actual[output].size(), expected[output].size());
    for (size_t i = 0; i < actual[output].size(); ++i) {
      ASSERT_NEAR(actual[output][i], expected[output][i], bounds[output][i])
          << "output " << output << ", element " << i;
    }
  }
}

double largest(const std::vector<double>& numbers) {
  double most = 0;
  for (const double number : numbers) most = std::max(most, std::abs(number));
  return most;
}

constexpr int64_t kWidth = 40;

Operand words(const Shape& shape, bool ignored) {
  Operand operand{shape, {}, {}};
  for (int64_t i = 0; i < shape.elements(); ++i) {
    const auto word = static_cast<int32_t>(i * 7919 % kPartsWords);
    operand.integers.push_back(ignored && i % 5 == 1 ? -100 : word);
  }
  return operand;
}

void append_embeddings(std::vector<PartsCase>& cases) {
  const Operand tokens = words({2, 70}, false);
  for (const bool positions : {false, true}) {
    const std::string name = positions ? "positions" : "plain";
    const EmbeddingParams params{positions, false};
    std::vector<Operand> inputs{tokens, normal({kPartsWords, kWidth}, 2)};
    std::vector<Shape> gradients{{kPartsWords, kWidth}};
    if (positions) inputs.push_back(normal({73, kWidth}, 3));
    if (positions) gradients.push_back({73, kWidth});
    const OpCase forward{
        "embedding_" + name, OpKind::kEmbedding, params, inputs, {{2, 70, kWidth}}, {}};
    cases.push_back({forward, kPartsWords, 0});
    cases.push_back({*with_bf16_weight(forward), kPartsWords, 0});
    OpCase backward{"embedding_backward_" + name,
                    OpKind::kEmbeddingBackward,
                    params,
                    {tokens, normal({2, 70, kWidth}, 4)},
                    gradients,
                    {}};
    cases.push_back({backward, kPartsWords, 0});
    OpCase tied = backward;
    tied.name += "_tied";
    tied.params = EmbeddingParams{positions, true};
    cases.push_back({tied, kPartsWords, 0});
    backward.name += "_accumulate";
    backward.runtime.accumulate = true;
    cases.push_back({backward, kPartsWords, 0});
  }
}

void append_heads(std::vector<PartsCase>& cases, bool bf16, bool bf16_weight) {
  // Tokens that make one, two and three blocks.
  const std::vector<std::pair<int64_t, int64_t>> sizes{
      {1, 1}, {16, 1}, {300, 2}, {33, 3}, {600, 3}};
  for (const auto& [tokens, blocks] : sizes) {
    const std::vector<Operand> inputs{normal({1, tokens, kWidth}, 20),
                                      normal({kPartsWords, kWidth}, 21, 0.3),
                                      words({1, tokens}, true)};
    const std::string name = std::to_string(tokens) + (bf16 && !bf16_weight ? "_bf16" : "");
    HeadParams params;
    params.bf16 = bf16;
    const auto append = [&](const OpCase& op) {
      cases.push_back({bf16_weight ? *with_bf16_weight(op) : op, kPartsWords, blocks});
    };
    append({"head_" + name, OpKind::kHeadLoss, params, inputs, {Shape{1}}, {}});
    OpCase train{"head_train_" + name,
                 OpKind::kHeadLossTrain,
                 params,
                 inputs,
                 {Shape{1}, inputs[0].shape, inputs[1].shape},
                 {}};
    train.runtime.loss_scale = 1.0 / 217;
    append(train);
    OpCase frozen = train;
    frozen.name += "_frozen";
    params.weight_gradient = false;
    frozen.params = params;
    frozen.outputs.pop_back();
    append(frozen);
    train.name += "_accumulate";
    train.runtime.accumulate = true;
    append(train);
  }
}

}  // namespace

bool multiplies_bf16(const OpCase& op) {
  const auto* linear = std::get_if<LinearParams>(&op.params);
  const auto* head = std::get_if<HeadParams>(&op.params);
  return (linear != nullptr && linear->bf16) || (head != nullptr && head->bf16);
}

std::string cpu_name(const OpCase& op) {
  if (!multiplies_bf16(op)) return op.name;
  return op.name + (ops::has_native_bf16() ? "_native" : "_in_fp32");
}

// The forward cases and what their gradients are made of, each also adding to a gradient that is
// there and to a residual's.
std::vector<OpCase> op_cases() {
  std::vector<OpCase> cases;
  for (const OpCase& forward : forward_cases(false)) {
    cases.push_back(forward);
    OpCase scaled = forward;
    scaled.runtime.loss_scale = 1.0 / 217;
    for (const Backward& backward :
         backward_of(scaled, run_reference(forward), normal(forward.outputs[0], 31))) {
      OpCase op = rounded(backward.op);
      cases.push_back(op);
      op.name += "_accumulate";
      op.runtime.accumulate = true;
      if (auto* linear = std::get_if<LinearParams>(&op.params);
          linear != nullptr && op.kind == OpKind::kLinearBackwardInput) {
        linear->has_addend = true;
        op.inputs.push_back(normal(op.outputs[0], 32));
      } else if (auto* norm = std::get_if<NormParams>(&op.params); norm != nullptr) {
        norm->has_addend = true;
        op.inputs.push_back(normal(op.outputs[0], 32));
      } else if (auto* embedding = std::get_if<EmbeddingParams>(&op.params);
                 embedding != nullptr && embedding->has_positions) {
        op.runtime.accumulate = false;
        embedding->accumulate_table = true;
      } else if (op.kind != OpKind::kLinearBackwardWeight && op.kind != OpKind::kHeadLossTrain &&
                 op.kind != OpKind::kEmbeddingBackward) {
        continue;
      }
      cases.push_back(op);
    }
  }
  append_bf16(cases);
  return cases;
}

void expect_within_bound(const OpCase& op, const Results& actual) {
  const Results expected = exact_results(op);
  const Results bounds = error_bound(op);
  expect_near(actual, expected, bounds);
  for (size_t output = 0; output < bounds.size(); ++output) {
    EXPECT_LT(largest(bounds[output]), most_of(op) * largest(expected[output]))
        << "the bound of output " << output << " says too little";
  }
}

Expected::Expected(const OpCase& op) : exact_(run_reference(op)), bounds_(error_bound(op)) {}

void Expected::expect_within_bound(const Results& actual) const {
  expect_near(actual, exact_, bounds_);
}

std::vector<PartsCase> parts_cases() {
  std::vector<PartsCase> cases;
  append_embeddings(cases);
  append_heads(cases, false, false);
  append_heads(cases, true, false);
  append_heads(cases, true, true);
  return cases;
}

const std::vector<int64_t>& parts_block_rows() {
  static const std::vector<int64_t> sizes{64, 100, 300, kPartsWords, 1000, 0};
  return sizes;
}

bool is_whole_weight(int64_t block_rows) { return block_rows <= 0 || block_rows >= kPartsWords; }

}  // namespace hetmem::testing_ops
