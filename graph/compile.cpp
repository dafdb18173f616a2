#include "graph/compile.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "graph/gradient_builder.h"
#include "graph/op_table.h"
#include "graph/passes.h"

namespace hetmem {
namespace {

// The head makes loss, dx and dw in one go: what a backward pass would start from.
void expand_head(std::vector<Value>& values, Node& head, GradientBuilder& builder,
                 std::vector<Node>& nodes) {
  HETMEM_ASSERT(head.op == OpKind::kHeadLoss);
  const ValueId x = head.inputs[0];
  const ValueId weight = head.inputs[1];
  auto params = std::get<HeadParams>(head.params);
  params.weight_gradient = builder.needs_gradient(weight);
  const Node forward = head;
  std::vector<ValueId> weights;
  if (params.weight_gradient) weights.push_back(weight);
  builder.emit_input_gradient(forward, OpKind::kHeadLossTrain, params, forward.inputs, x, weights,
                              false);
  Node train = nodes.back();
  nodes.pop_back();
  train.name = forward.name;
  train.phase = Phase::kForward;
  train.outputs.insert(train.outputs.begin(), forward.outputs[0]);
  HETMEM_ASSERT(values[static_cast<size_t>(forward.outputs[0])].kind == ValueKind::kLoss);
  nodes[nodes.size() - 1] = std::move(train);
}

void derive_backward(std::vector<Value>& values, std::vector<Node>& nodes, bool fuse) {
  HETMEM_ASSERT(!nodes.empty());
  const std::vector<Node> forward = nodes;
  GradientBuilder builder(values, nodes, fuse);
  Node head = nodes.back();
  // Where nothing upstream of the head and not its weight is trained, there is nothing to derive.
  if (!builder.needs_gradient(head.outputs[0])) return;
  expand_head(values, head, builder, nodes);
  for (auto node = forward.rbegin() + 1; node != forward.rend(); ++node) {
    const OpDescription& description = describe(node->op);
    const bool reached = std::any_of(node->outputs.begin(), node->outputs.end(), [&](ValueId id) {
      return builder.needs_gradient(id) && builder.gradient(id) != kNoValue;
    });
    if (!reached) continue;
    HETMEM_ASSERT(description.gradient != nullptr);
    description.gradient(builder, *node);
  }
}

// Backward nodes take it over from their forward ones.
void round_products(std::vector<Node>& nodes) {
  for (Node& node : nodes) {
    if (auto* linear = std::get_if<LinearParams>(&node.params)) {
      linear->bf16 = linear->bf16_weight = true;
    }
    if (auto* head = std::get_if<HeadParams>(&node.params)) head->bf16 = head->bf16_weight = true;
  }
}

// What products and embeddings read; norm weights and biases are small, and stay as they are.
void round_weights(std::vector<Value>& values) {
  for (Value& value : values) {
    if (value.kind == ValueKind::kWeight && value.shape.rank() > 1) value.dtype = DType::kBFloat16;
  }
}

Cost cost_of(const Node& node, const std::vector<Value>& values) {
  Cost cost;
  std::vector<Value> inputs;
  for (const ValueId id : node.inputs) inputs.push_back(values[static_cast<size_t>(id)]);
  cost.flops = describe(node.op).flops(node.params, inputs);
  for (const auto* ids : {&node.inputs, &node.outputs}) {
    for (const ValueId id : *ids) {
      cost.bytes += static_cast<double>(values[static_cast<size_t>(id)].bytes());
    }
  }
  return cost;
}

}  // namespace

Program compile(const Graph& graph, const CompileOptions& options) {
  std::vector<Value> values = graph.values();
  std::vector<Node> nodes = graph.nodes();
  for (Value& value : values) {
    if (value.kind != ValueKind::kWeight) continue;
    value.trainable = options.training && !(options.frozen && options.frozen(value.name));
  }
  if (options.bf16) round_products(nodes);
  if (options.fuse) fuse_residual_adds(values, nodes);
  if (options.training) derive_backward(values, nodes, options.fuse);
  remove_dead_nodes(values, nodes);
  if (options.remake) remake_cheap_values(values, nodes);

  Program program;
  program.training = options.training;
  program.values = std::move(values);
  if (options.bf16) round_weights(program.values);  // after the gradients, which stay fp32
  mark_saved(program.values, nodes);
  for (Node& node : nodes) {
    Step step;
    step.cost = cost_of(node, program.values);
    if (options.workspace) {
      std::vector<Value> inputs;
      for (const ValueId id : node.inputs) inputs.push_back(program.value(id));
      step.workspace_bytes = options.workspace(node.op, node.params, inputs);
    }
    step.node = std::move(node);
    program.steps.push_back(std::move(step));
  }
  for (ValueId id = 0; id < static_cast<ValueId>(program.values.size()); ++id) {
    const Value& value = program.value(id);
    if (value.kind == ValueKind::kLoss) program.loss = id;
    if (value.kind == ValueKind::kWeight) program.weights.push_back(id);
  }
  program.gradients.assign(program.weights.size(), kNoValue);
  for (ValueId id = 0; id < static_cast<ValueId>(program.values.size()); ++id) {
    const Value& value = program.value(id);
    if (value.kind != ValueKind::kGradient) continue;
    const auto weight =
        std::find(program.weights.begin(), program.weights.end(), value.gradient_of);
    program.gradients[static_cast<size_t>(weight - program.weights.begin())] = id;
  }
  assign_storage(program, options.in_place);
  return program;
}

}  // namespace hetmem
