// Every op of the CPU backend: against the plain double version, for one number of threads and
// another, and writing over an operand.
#include <gtest/gtest.h>

#include <cmath>

#include "error_bound.h"
#include "graph/op_table.h"
#include "op_case.h"

namespace hetmem::testing_ops {
namespace {

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
  return cases;
}

class CpuOps : public testing::TestWithParam<OpCase> {};

TEST_P(CpuOps, AreWithinTheBoundOfTheExactValue) {
  const OpCase op = GetParam();
  const Results expected = run_reference(op);
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
    EXPECT_LT(widest, 0.01 * largest) << "the bound of output " << output << " says too little";
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
