#include "graph/gradient_builder.h"

#include <algorithm>
#include <utility>
#include <variant>

#include "core/error.h"

namespace hetmem {
namespace {

bool any_needs(const std::vector<bool>& needs, const std::vector<ValueId>& ids) {
  return std::any_of(ids.begin(), ids.end(),
                     [&](ValueId id) { return needs[static_cast<size_t>(id)]; });
}

void set_addend(OpParams& params) {
  if (auto* linear = std::get_if<LinearParams>(&params)) {
    linear->has_addend = true;
  } else {
    std::get<NormParams>(params).has_addend = true;
  }
}

}  // namespace

GradientBuilder::GradientBuilder(std::vector<Value>& values, std::vector<Node>& nodes, bool fuse)
    : values_(values),
      nodes_(nodes),
      fuse_(fuse),
      needs_(values.size(), false),
      gradients_(values.size(), kNoValue) {
  for (size_t i = 0; i < values.size(); ++i) {
    needs_[i] = values[i].kind == ValueKind::kWeight && values[i].trainable;
  }
  for (const Node& node : nodes) {
    if (!any_needs(needs_, node.inputs)) continue;
    for (const ValueId id : node.outputs) needs_[static_cast<size_t>(id)] = true;
  }
}

ValueId GradientBuilder::add_value(const Value& like, const std::string& name) {
  Value value;
  value.name = name;
  value.dtype = like.dtype;
  value.shape = like.shape;
  value.layer = like.layer;
  values_.push_back(std::move(value));
  needs_.push_back(false);
  gradients_.push_back(kNoValue);
  return static_cast<ValueId>(values_.size()) - 1;
}

ValueId GradientBuilder::weight_target(ValueId weight) {
  const Value like = value(weight);
  if (!like.trainable) return add_value(like, "unused grad:" + like.name);
  const ValueId known = gradient(weight);
  if (known != kNoValue) return known;
  const ValueId id = add_value(like, "grad:" + like.name);
  values_.back().kind = ValueKind::kGradient;
  values_.back().gradient_of = weight;
  return gradients_[static_cast<size_t>(weight)] = id;
}

void GradientBuilder::add_weight_outputs(Node& node, const std::vector<ValueId>& weights) {
  const auto known = std::count_if(weights.begin(), weights.end(),
                                   [&](ValueId id) { return gradient(id) != kNoValue; });
  node.accumulates = known > 0 && known == static_cast<int64_t>(weights.size());
  // Only the embedding can say that one of its gradients accumulates and the other does not.
  HETMEM_ASSERT(known == 0 || node.accumulates || node.op == OpKind::kEmbeddingBackward);
  for (const ValueId weight : weights) node.outputs.push_back(weight_target(weight));
}

Node GradientBuilder::backward_node(const Node& forward, OpKind op, OpParams params,
                                    std::vector<ValueId> inputs) {
  Node node;
  node.op = op;
  node.params = std::move(params);
  node.inputs = std::move(inputs);
  node.name = "d " + forward.name;
  node.layer = forward.layer;
  node.phase = Phase::kBackward;
  return node;
}

void GradientBuilder::contribute(ValueId id, ValueId gradient) {
  if (!needs_gradient(id)) return;
  const ValueId known = gradients_[static_cast<size_t>(id)];
  if (known == kNoValue) {
    gradients_[static_cast<size_t>(id)] = gradient;
    return;
  }
  Node forward;
  forward.name = value(id).name;
  forward.layer = value(id).layer;
  gradients_[static_cast<size_t>(id)] =
      emit(forward, OpKind::kAdd, {}, {known, gradient}, {id}).front();
}

std::vector<ValueId> GradientBuilder::emit(const Node& forward, OpKind op, OpParams params,
                                           std::vector<ValueId> inputs,
                                           const std::vector<ValueId>& like) {
  Node node = backward_node(forward, op, std::move(params), std::move(inputs));
  for (const ValueId id : like) {
    const Value shape_of = value(id);
    node.outputs.push_back(add_value(shape_of, "d " + shape_of.name));
  }
  std::vector<ValueId> outputs = node.outputs;
  nodes_.push_back(std::move(node));
  return outputs;
}

void GradientBuilder::emit_input_gradient(const Node& forward, OpKind op, OpParams params,
                                          std::vector<ValueId> inputs, ValueId target,
                                          const std::vector<ValueId>& weights, bool takes_addend) {
  Node node = backward_node(forward, op, std::move(params), std::move(inputs));
  const ValueId sum = gradient(target);
  const bool fused = takes_addend && fuse_ && sum != kNoValue;
  if (fused) {
    set_addend(node.params);
    node.inputs.push_back(sum);
  }
  const Value like = value(target);
  const ValueId made = add_value(like, "d " + like.name);
  node.outputs.push_back(made);
  add_weight_outputs(node, weights);
  nodes_.push_back(std::move(node));
  if (fused) {
    gradients_[static_cast<size_t>(target)] = made;
  } else {
    contribute(target, made);
  }
}

void GradientBuilder::emit_weight_gradients(const Node& forward, OpKind op, OpParams params,
                                            std::vector<ValueId> inputs,
                                            const std::vector<ValueId>& weights) {
  if (!any_needs(needs_, weights)) return;
  Node node = backward_node(forward, op, std::move(params), std::move(inputs));
  add_weight_outputs(node, weights);
  nodes_.push_back(std::move(node));
}

}  // namespace hetmem
