// GradientBuilder: what the gradient rules of the op table write with. It keeps, for every forward
// value, the sum of the gradients that reached it, and appends backward nodes. Used by compile()
// only; not thread-safe.
#pragma once

#include <string>
#include <vector>

#include "graph/graph.h"

namespace hetmem {

class GradientBuilder {
 public:
  // Appends to `values` and `nodes`. `fuse`: sums go into the addend of the op that makes the next
  // contribution, where it has one.
  GradientBuilder(std::vector<Value>& values, std::vector<Node>& nodes, bool fuse);

  const Value& value(ValueId id) const { return values_[static_cast<size_t>(id)]; }
  // Whether a trainable weight lies upstream of a value (or is it).
  bool needs_gradient(ValueId id) const { return needs_[static_cast<size_t>(id)]; }
  // The gradient of a forward value, kNoValue where none reached it.
  ValueId gradient(ValueId id) const { return gradients_[static_cast<size_t>(id)]; }

  // Adds `gradient` to the sum for `id`.
  void contribute(ValueId id, ValueId gradient);
  // Appends a backward node with fresh outputs; their shapes are those of `like`.
  std::vector<ValueId> emit(const Node& forward, OpKind op, OpParams params,
                            std::vector<ValueId> inputs, const std::vector<ValueId>& like);
  // Appends the node that makes the gradient of `target` (its first output; those of `weights`
  // follow) and contributes it. Where the op takes an addend, the sum so far rides along as its
  // last input instead of being added by a node of its own.
  void emit_input_gradient(const Node& forward, OpKind op, OpParams params,
                           std::vector<ValueId> inputs, ValueId target,
                           const std::vector<ValueId>& weights, bool takes_addend);
  // Appends a node that makes gradients of weights only.
  void emit_weight_gradients(const Node& forward, OpKind op, OpParams params,
                             std::vector<ValueId> inputs, const std::vector<ValueId>& weights);

 private:
  ValueId add_value(const Value& like, const std::string& name);
  // Where the gradient of a weight goes: its gradient value, or a temporary where it is frozen.
  ValueId weight_target(ValueId weight);
  // Appends the gradients of `weights` to the outputs of a node and says whether they accumulate.
  void add_weight_outputs(Node& node, const std::vector<ValueId>& weights);
  Node backward_node(const Node& forward, OpKind op, OpParams params, std::vector<ValueId> inputs);

  std::vector<Value>& values_;
  std::vector<Node>& nodes_;
  bool fuse_;
  std::vector<bool> needs_;
  std::vector<ValueId> gradients_;
};

}  // namespace hetmem
