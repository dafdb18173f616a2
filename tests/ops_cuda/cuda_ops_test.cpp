// Every op of the CUDA backend, on the list of cases of all backends: against the plain double
// version, for one order of threads and blocks and another, and writing over an operand.
#include <gtest/gtest.h>

#include <tuple>

#include "backend_cases.h"
#include "cuda_backends.h"
#include "graph/op_table.h"
#include "ops/cuda/kernel.h"

namespace hetmem::testing_ops {
namespace {

using Order = ops::cuda_emulated::emulator::Order;

class CudaOps : public testing::TestWithParam<std::tuple<std::string, OpCase>> {
 protected:
  void SetUp() override {
    if (!backend().unavailable.empty()) GTEST_SKIP() << backend().unavailable;
  }
  static const CudaBackend& backend() { return cuda_backend(std::get<0>(GetParam())); }
  static const OpCase& op() { return std::get<1>(GetParam()); }
  static Results run(std::pair<int, int> in_place = {-1, -1}) {
    return run_on(backend().ops, op(), in_place);
  }
};

TEST_P(CudaOps, AreWithinTheBoundOfTheExactValue) { expect_within_bound(op(), run()); }

// On a GPU the order is another one each time by itself.
TEST_P(CudaOps, GiveTheSameBitsInAnyOrderOfThreads) {
  const Results forward = run();
  ops::cuda_emulated::emulator::set_order(Order::kBackward);
  const Results backward = run();
  ops::cuda_emulated::emulator::set_order(Order::kForward);
  EXPECT_EQ(backward, forward);
}

TEST_P(CudaOps, MayWriteOverTheOperandsThatTheTableNames) {
  const Results apart = run();
  for (const auto& pair : describe(op().kind).in_place) {
    if (static_cast<size_t>(pair.first) >= op().inputs.size()) continue;
    EXPECT_EQ(run(pair), apart) << "input " << pair.first << ", output " << pair.second;
  }
}

// Kernels that add in the written order of the CPU's, or not at all.
TEST_P(CudaOps, HaveTheBitsOfTheCpuWhereNothingIsSummedInTiles) {
  switch (op().kind) {
    case OpKind::kEmbedding:
    case OpKind::kEmbeddingBackward:
    case OpKind::kAdd:
    case OpKind::kDropout:
      EXPECT_EQ(run(), run_cpu(op(), 2));
      break;
    default:
      break;
  }
}

// Wider heads than those of the shared list: every size of tile.
std::vector<OpCase> cases() {
  std::vector<OpCase> all = op_cases();
  for (const int64_t head_dim : {100, 256}) {
    AttentionParams params;
    params.heads = 2;
    params.kv_heads = 1;
    params.head_dim = head_dim;
    params.scale = 0.1F;
    params.packed = true;
    const Shape o{1, 71, 2 * head_dim};
    OpCase forward{"attention_wide_" + std::to_string(head_dim), OpKind::kAttention, params,
                   {normal({1, 71, 4 * head_dim}, 11)},          {o, {1, 2, 71}},    {}};
    all.push_back(forward);
    for (const Backward& backward : backward_of(forward, run_reference(forward), normal(o, 31))) {
      all.push_back(rounded(backward.op));
    }
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(Ops, CudaOps,
                         testing::Combine(testing::ValuesIn(cuda_backend_names()),
                                          testing::ValuesIn(cases())),
                         [](const auto& tested) {
                           return std::get<0>(tested.param) + "_" + std::get<1>(tested.param).name;
                         });

class CudaParts : public testing::TestWithParam<std::tuple<std::string, PartsCase>> {
 protected:
  void SetUp() override {
    if (!backend().unavailable.empty()) GTEST_SKIP() << backend().unavailable;
  }
  static const CudaBackend& backend() { return cuda_backend(std::get<0>(GetParam())); }
  static const PartsCase& tested() { return std::get<1>(GetParam()); }
  static Results run(int64_t block_rows, bool gradient_over_weight = false) {
    return run_parts_on(backend().ops, tested().op,
                        {tested().weight_rows, block_rows, 1, gradient_over_weight});
  }
};

TEST_P(CudaParts, AreWithinTheBoundOfTheExactValueAndInOneBlockTheWholeOp) {
  const Results whole = run_on(backend().ops, tested().op);
  const Expected expected(tested().op);
  for (const int64_t block_rows : parts_block_rows()) {
    SCOPED_TRACE(block_rows);
    const Results actual = run(block_rows);
    expected.expect_within_bound(actual);
    // A row of a table is made by additions in an order that blocks do not change.
    if (is_whole_weight(block_rows) || tested().token_blocks == 0) {
      EXPECT_EQ(actual, whole);
    }
  }
}

TEST_P(CudaParts, MayWriteTheGradientOverTheWeight) {
  const OpCase& op = tested().op;
  if (tested().token_blocks != 1 || op.outputs.size() < 3 || op.runtime.accumulate) return;
  for (const int64_t block_rows : parts_block_rows()) {
    EXPECT_EQ(run(block_rows, true), run(block_rows)) << block_rows;
  }
}

INSTANTIATE_TEST_SUITE_P(Ops, CudaParts,
                         testing::Combine(testing::ValuesIn(cuda_backend_names()),
                                          testing::ValuesIn(parts_cases())),
                         [](const auto& tested) {
                           return std::get<0>(tested.param) + "_" +
                                  std::get<1>(tested.param).op.name;
                         });

}  // namespace
}  // namespace hetmem::testing_ops
