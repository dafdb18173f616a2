// The gradients of the reference ops against central differences, in double.
#include <gtest/gtest.h>

#include <cmath>

#include "op_case.h"

namespace hetmem::testing_ops {
namespace {

// The inner product of an op's first output with dy; the loss for the head.
double objective(const OpCase& op, const Operand& dy) {
  const Results results = run_reference(op);
  double sum = 0;
  for (size_t i = 0; i < results[0].size(); ++i) sum += results[0][i] * dy.numbers[i];
  return sum;
}

class ReferenceGradients : public testing::TestWithParam<OpCase> {};

TEST_P(ReferenceGradients, AgreeWithCentralDifferences) {
  const OpCase forward = GetParam();
  const bool head = forward.kind == OpKind::kHeadLoss;
  const Operand dy = head ? Operand{Shape{1}, {1.0}, {}} : normal(forward.outputs[0], 31);
  const Results saved = run_reference(forward);
  int compared = 0;
  for (const Backward& backward : backward_of(forward, saved, dy)) {
    const Results gradients = run_reference(backward.op);
    for (size_t output = 0; output < gradients.size(); ++output) {
      if (backward.gradient_of[output] < 0) continue;
      const auto input = static_cast<size_t>(backward.gradient_of[output]);
      for (size_t i = 0; i < gradients[output].size(); ++i) {
        // The error of a central difference is h^2 f'''/6 + 2^-53 |f| / h: about 1e-10 here.
        constexpr double kStep = 1e-5;
        OpCase moved = forward;
        moved.inputs[input].numbers[i] += kStep;
        const double above = objective(moved, dy);
        moved.inputs[input].numbers[i] -= 2 * kStep;
        const double below = objective(moved, dy);
        ASSERT_NEAR(gradients[output][i], (above - below) / (2 * kStep), 1e-7)
            << name_of(backward.op.kind) << ", operand " << input << ", element " << i;
        ++compared;
      }
    }
  }
  if (forward.kind != OpKind::kAdd) {
    EXPECT_GT(compared, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Ops, ReferenceGradients, testing::ValuesIn(forward_cases(true)),
                         [](const auto& tested) { return tested.param.name; });

}  // namespace
}  // namespace hetmem::testing_ops
