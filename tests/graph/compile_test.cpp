#include "graph/compile.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>

#include "core/error.h"

namespace hetmem {
namespace {

// Two linear layers with a GELU between and a residual around: every kind of pass has work.
Graph two_layers() {
  Graph graph;
  const ValueId tokens = graph.add_input("tokens", DType::kInt32, {2, 4});
  const ValueId labels = graph.add_input("labels", DType::kInt32, {2, 4});
  const ValueId table = graph.add_weight("table", {10, 8});
  const ValueId x =
      graph.add_op(OpKind::kEmbedding, EmbeddingParams{}, {tokens, table}, "e", -1)[0];
  const ValueId w1 = graph.add_weight("w1", {16, 8}, 0);
  const ValueId b1 = graph.add_weight("b1", {16}, 0);
  const ValueId w2 = graph.add_weight("w2", {8, 16}, 0);
  LinearParams with_bias;
  with_bias.has_bias = true;
  const ValueId h = graph.add_op(OpKind::kLinear, with_bias, {x, w1, b1}, "up", 0)[0];
  const ValueId a = graph.add_op(OpKind::kGelu, GeluParams{}, {h}, "gelu", 0)[0];
  const ValueId y = graph.add_op(OpKind::kLinear, LinearParams{}, {a, w2}, "down", 0)[0];
  const ValueId z = graph.add_op(OpKind::kAdd, {}, {x, y}, "residual", 0)[0];
  graph.add_op(OpKind::kHeadLoss, HeadParams{}, {z, table, labels}, "head", -1);
  return graph;
}

int count(const Program& program, OpKind op) {
  return static_cast<int>(std::count_if(program.steps.begin(), program.steps.end(),
                                        [op](const Step& step) { return step.node.op == op; }));
}

int64_t saved_bytes(const Program& program) {
  int64_t sum = 0;
  for (size_t i = 0; i < program.values.size(); ++i) {
    // A value that lives in the memory of another takes none of its own.
    if (program.values[i].kind == ValueKind::kSaved && program.storage_of[i] == kNoValue) {
      sum += program.values[i].bytes();
    }
  }
  return sum;
}

TEST(Compile, EveryTrainedWeightHasItsGradient) {
  const Program program = compile(two_layers(), {});
  verify(program);
  ASSERT_EQ(program.weights.size(), 4U);
  for (size_t i = 0; i < 4; ++i) {
    ASSERT_NE(program.gradients[i], kNoValue);
    EXPECT_EQ(program.value(program.gradients[i]).shape, program.value(program.weights[i]).shape);
  }
  EXPECT_EQ(count(program, OpKind::kHeadLossTrain), 1);
  EXPECT_EQ(count(program, OpKind::kEmbeddingBackward), 1);
}

TEST(Compile, AResidualIsFusedIntoItsLinear) {
  EXPECT_EQ(count(compile(two_layers(), {}), OpKind::kAdd), 0);
  CompileOptions plain;
  plain.fuse = false;
  const Program program = compile(two_layers(), plain);
  verify(program);
  EXPECT_EQ(count(program, OpKind::kAdd), 2);  // the residual, and the sum of its two gradients
}

TEST(Compile, EvaluationHasNoBackwardAndSavesNothing) {
  CompileOptions options;
  options.training = false;
  const Program program = compile(two_layers(), options);
  verify(program);
  EXPECT_EQ(saved_bytes(program), 0);
  for (const Step& step : program.steps) EXPECT_EQ(step.node.phase, Phase::kForward);
}

TEST(Compile, FrozenWeightsCostNothing) {
  CompileOptions options;
  options.frozen = [](const std::string& name) { return name != "w2"; };
  const Program frozen = compile(two_layers(), options);
  verify(frozen);
  const Program whole = compile(two_layers(), {});
  // w2 needs its input and the gradient of its output alone: nothing below it is differentiated.
  EXPECT_EQ(count(frozen, OpKind::kLinearBackwardInput), 0);
  EXPECT_EQ(count(frozen, OpKind::kGeluBackward), 0);
  EXPECT_EQ(count(frozen, OpKind::kEmbeddingBackward), 0);
  EXPECT_EQ(count(frozen, OpKind::kLinearBackwardWeight), 1);
  EXPECT_LT(saved_bytes(frozen), saved_bytes(whole));
}

TEST(Compile, CostsAreTheFormula) {
  const Program program = compile(two_layers(), {});
  for (const Step& step : program.steps) {
    if (step.node.name != "up" || step.node.op != OpKind::kLinear) continue;
    EXPECT_EQ(step.cost.flops, 2.0 * 8 * 8 * 16);
    EXPECT_EQ(step.cost.bytes, 4.0 * (8 * 8 + 16 * 8 + 16 + 8 * 16));
    return;
  }
  FAIL() << "no linear named up";
}

TEST(Compile, ALinearNoLongerReadsItsWeightWhenTheWeightsGradientIsMade) {
  const Program program = compile(two_layers(), {});
  int checked = 0;
  for (size_t i = 0; i < program.weights.size(); ++i) {
    const auto reads = [&](const Step& step) {
      return step.node.op == OpKind::kLinearBackwardInput &&
             step.node.inputs[1] == program.weights[i];
    };
    const auto makes = [&](const Step& step) {
      return step.node.op == OpKind::kLinearBackwardWeight &&
             step.node.outputs[0] == program.gradients[i];
    };
    const auto made = std::find_if(program.steps.begin(), program.steps.end(), makes);
    if (made == program.steps.end()) continue;
    EXPECT_EQ(std::count_if(program.steps.begin(), made, reads), 1);
    EXPECT_EQ(std::count_if(made, program.steps.end(), reads), 0);
    ++checked;
  }
  EXPECT_EQ(checked, 2);
}

TEST(Compile, IsDeterministicAndPrintable) {
  std::ostringstream first;
  std::ostringstream second;
  dump(compile(two_layers(), {}), first);
  dump(compile(two_layers(), {}), second);
  EXPECT_EQ(first.str(), second.str());
  EXPECT_NE(first.str().find("linear_backward_weight"), std::string::npos);
}

// The verifier is worth what it catches.
TEST(Verify, CatchesBrokenPrograms) {
  const Program good = compile(two_layers(), {});
  Program late = good;
  std::swap(late.steps.front(), late.steps[1]);
  EXPECT_THROW(verify(late), Error);  // read before it is written
  Program twice = good;
  twice.steps.push_back(twice.steps.front());
  EXPECT_THROW(verify(twice), Error);  // written twice
  Program no_gradient = good;
  no_gradient.gradients[1] = kNoValue;
  EXPECT_THROW(verify(no_gradient), Error);
  Program short_life = good;
  bool shortened = false;
  for (size_t i = 0; i < short_life.lifetimes.size() && !shortened; ++i) {
    if (good.values[i].kind != ValueKind::kSaved) continue;
    if (short_life.lifetimes[i].last <= short_life.lifetimes[i].first) continue;
    --short_life.lifetimes[i].last;
    shortened = true;
  }
  ASSERT_TRUE(shortened);
  EXPECT_THROW(verify(short_life), Error);
  Program wrong_shape = good;
  for (Value& value : wrong_shape.values) {
    if (value.name == "w1" && value.kind == ValueKind::kWeight) value.shape = Shape{16, 9};
  }
  EXPECT_THROW(verify(wrong_shape), Error);
}

TEST(Graph, OperandsThatDoNotFitAreRefused) {
  Graph graph;
  const ValueId x = graph.add_weight("x", {3, 4});
  const ValueId w = graph.add_weight("w", {5, 6});
  EXPECT_THROW(graph.add_op(OpKind::kLinear, LinearParams{}, {x, w}, "l", 0), Error);
  EXPECT_THROW(graph.add_op(OpKind::kAdd, {}, {x, w}, "a", 0), Error);
}

}  // namespace
}  // namespace hetmem
