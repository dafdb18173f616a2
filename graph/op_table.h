// The one description of every op for the graph: shape rule, gradient rule, what it saves, whether
// it may write in place, FLOPs and bytes. Adding an op is one entry here plus its kernels.
#pragma once

#include <functional>
#include <utility>
#include <vector>

#include "core/op.h"
#include "graph/graph.h"

namespace hetmem {

struct OutputSpec {
  DType dtype;
  Shape shape;
};

// What a gradient rule may do: look at the forward node and the gradients that reached its outputs
// and emit backward nodes.
class GradientBuilder;

struct OpDescription {
  OpKind kind;
  // Dtypes and shapes of the outputs from those of the inputs; throws Error (kInternal) on operands
  // that do not fit together.
  std::vector<OutputSpec> (*outputs)(const OpParams& params, const std::vector<Value>& inputs);
  // Emits the backward nodes of `node`; nullptr where the op has none.
  void (*gradient)(GradientBuilder& builder, const Node& node);
  // Pairs (input, output) that may share memory.
  std::vector<std::pair<int, int>> in_place;
  // Floating-point operations of one call.
  double (*flops)(const OpParams& params, const std::vector<Value>& inputs);
  // So cheap that its output is made again in the backward pass, where the operands are kept
  // anyway.
  bool remade = false;
};

const OpDescription& describe(OpKind kind);

}  // namespace hetmem
