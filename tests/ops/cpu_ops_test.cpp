// Every op of the CPU backend: against the plain double version, for one number of threads and
// another, and writing over an operand.
#include <gtest/gtest.h>

#include "backend_cases.h"
#include "graph/op_table.h"
#include "ops/ops.h"

namespace hetmem::testing_ops {
namespace {

class CpuOps : public testing::TestWithParam<OpCase> {};

TEST_P(CpuOps, AreWithinTheBoundOfTheExactValue) {
  expect_within_bound(GetParam(), run_cpu(GetParam(), 2));
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

INSTANTIATE_TEST_SUITE_P(Ops, CpuOps, testing::ValuesIn(op_cases()),
                         [](const auto& tested) { return cpu_name(tested.param); });

}  // namespace
}  // namespace hetmem::testing_ops
