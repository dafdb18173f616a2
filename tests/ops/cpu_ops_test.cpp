// Every op of the CPU backend: against the plain double version, for one number of threads and
// another, and writing over an operand.
#include <gtest/gtest.h>

#include <cmath>

#include "core/dtype.h"
#include "error_bound.h"
#include "graph/op_table.h"
#include "op_case.h"
#include "ops/ops.h"

namespace hetmem::testing_ops {
namespace {

// The same products with operands in bf16.
void append_bf16(std::vector<OpCase>& cases) {
  const size_t count = cases.size();
  for (size_t i = 0; i < count; ++i) {
    OpCase op = cases[i];
    if (auto* linear = std::get_if<LinearParams>(&op.params)) {
      linear->bf16 = true;
    } else if (auto* head = std::get_if<HeadParams>(&op.params)) {
      head->bf16 = true;
    } else {
      continue;
    }
    op.name += "_bf16";
    cases.push_back(op);
  }
}

// The forward cases and what their gradients are made of, each also adding to a gradient that is
// there and to a residual's.
std::vector<OpCase> all_cases() {
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
  if (ops::has_native_bf16()) append_bf16(cases);
  return cases;
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

class CpuOps : public testing::TestWithParam<OpCase> {};

TEST_P(CpuOps, AreWithinTheBoundOfTheExactValue) {
  const OpCase op = GetParam();
  const Results expected = exact_results(op);
  const Results bounds = error_bound(op);
  const Results actual = run_cpu(op, 2);
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t output = 0; output < actual.size(); ++output) {
    ASSERT_EQ(actual[output].size(), expected[output].size());
    double largest = 0;
    double widest = 0;
    for (size_t i = 0; i < actual[output].size(); ++i) {
      ASSERT_NEAR(actual[output][i], expected[output][i], bounds[output][i])
          << "output " << output << ", element " << i;
      largest = std::max(largest, std::abs(expected[output][i]));
      widest = std::max(widest, bounds[output][i]);
    }
    EXPECT_LT(widest, most_of(op) * largest)
        << "the bound of output " << output << " says too little";
  }
}

TEST_P(CpuOps, GiveTheSameBitsForAnyNumberOfThreads) {
  const Results one = run_cpu(GetParam(), 1);
  for (const int threads : {2, 3, 8}) EXPECT_EQ(run_cpu(GetParam(), threads), one) << threads;
}

TEST_P(CpuOps, MayWriteOverTheOperandsThatTheTableNames) {
  const OpCase op = GetParam();
  const Results apart = run_cpu(op, 2);
  for (const auto& pair : describe(op.kind).in_place) {
    if (static_cast<size_t>(pair.first) >= op.inputs.size()) continue;
    EXPECT_EQ(run_cpu(op, 2, pair), apart) << "input " << pair.first << ", output " << pair.second;
  }
}

INSTANTIATE_TEST_SUITE_P(Ops, CpuOps, testing::ValuesIn(all_cases()),
                         [](const auto& tested) { return tested.param.name; });

}  // namespace
}  // namespace hetmem::testing_ops
