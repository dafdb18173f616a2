// The dataflow IR: values (tensors with dtype, shape, kind, layer) and nodes (ops over them). Model
// builders add forward nodes; compile() (graph/compile.h) derives the rest. Pure data: no device,
// no memory. Not thread-safe while it is built, immutable afterwards.
//
//   Graph graph;
//   ValueId x = graph.add_input("tokens", DType::kInt32, {4, 64});
//   ValueId w = graph.add_weight("wte.weight", {50257, 768});
//   ValueId y = graph.add_op(OpKind::kEmbedding, EmbeddingParams{}, {x, w}, "embed",
//   /*layer=*/-1)[0];
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/op.h"
#include "core/shape.h"

namespace hetmem {

using ValueId = int32_t;
constexpr ValueId kNoValue = -1;

enum class ValueKind : uint8_t {
  kInput,      // tokens, labels: filled by the caller before each micro-batch
  kConstant,   // rope tables: filled once from Value::constant
  kWeight,     // a parameter
  kGradient,   // the gradient of a parameter (Value::gradient_of)
  kSaved,      // made in the forward pass, read in the backward pass
  kTemporary,  // everything else
  kLoss,       // the float64 sum of the losses
};
std::string_view name_of(ValueKind kind);

struct Value {
  std::string name;
  DType dtype = DType::kFloat32;
  Shape shape;
  ValueKind kind = ValueKind::kTemporary;
  int layer = -1;  // -1 outside of the stack of layers
  ValueId gradient_of = kNoValue;
  bool trainable = false;                              // weights only
  std::shared_ptr<const std::vector<float>> constant;  // kConstant only
  int64_t bytes() const { return shape.elements() * size_of(dtype); }
};

enum class Phase : uint8_t { kForward, kBackward };

struct Node {
  OpKind op = OpKind::kAdd;
  OpParams params;
  std::vector<ValueId> inputs;
  std::vector<ValueId> outputs;
  std::string name;
  int layer = -1;
  Phase phase = Phase::kForward;
  bool accumulates = false;  // its weight gradients already hold an earlier contribution
};

class Graph {
 public:
  ValueId add_input(const std::string& name, DType dtype, const Shape& shape);
  ValueId add_constant(const std::string& name, const Shape& shape, std::vector<float> data);
  ValueId add_weight(const std::string& name, const Shape& shape, int layer = -1);
  // Appends a node; its outputs' shapes come from the op table. Throws Error (kInternal) where the
  // operands do not fit together.
  std::vector<ValueId> add_op(OpKind op, OpParams params, std::vector<ValueId> inputs,
                              const std::string& name, int layer);

  const std::vector<Value>& values() const { return values_; }
  const std::vector<Node>& nodes() const { return nodes_; }
  const Value& value(ValueId id) const { return values_.at(static_cast<size_t>(id)); }

 private:
  std::vector<Value> values_;
  std::vector<Node> nodes_;
};

}  // namespace hetmem
