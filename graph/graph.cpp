#include "graph/graph.h"

#include <array>
#include <utility>

#include "core/error.h"
#include "graph/op_table.h"

namespace hetmem {

std::string_view name_of(ValueKind kind) {
  static constexpr std::array<std::string_view, 7> kNames{
      "input", "constant", "weight", "gradient", "saved", "temporary", "loss"};
  return kNames.at(static_cast<size_t>(kind));
}

namespace {

ValueId append(std::vector<Value>& values, Value value) {
  values.push_back(std::move(value));
  return static_cast<ValueId>(values.size()) - 1;
}

}  // namespace

ValueId Graph::add_input(const std::string& name, DType dtype, const Shape& shape) {
  Value value;
  value.name = name;
  value.dtype = dtype;
  value.shape = shape;
  value.kind = ValueKind::kInput;
  return append(values_, std::move(value));
}

ValueId Graph::add_constant(const std::string& name, const Shape& shape, std::vector<float> data) {
  HETMEM_ASSERT(static_cast<int64_t>(data.size()) == shape.elements());
  Value value;
  value.name = name;
  value.shape = shape;
  value.kind = ValueKind::kConstant;
  value.constant = std::make_shared<const std::vector<float>>(std::move(data));
  return append(values_, std::move(value));
}

ValueId Graph::add_weight(const std::string& name, const Shape& shape, int layer) {
  Value value;
  value.name = name;
  value.shape = shape;
  value.kind = ValueKind::kWeight;
  value.layer = layer;
  value.trainable = true;
  return append(values_, std::move(value));
}

std::vector<ValueId> Graph::add_op(OpKind op, OpParams params, std::vector<ValueId> inputs,
                                   const std::string& name, int layer) {
  std::vector<Value> operands;
  for (const ValueId id : inputs) operands.push_back(value(id));
  std::vector<ValueId> outputs;
  const std::vector<OutputSpec> specs = describe(op).outputs(params, operands);
  for (size_t i = 0; i < specs.size(); ++i) {
    Value output;
    output.name = i == 0 ? name : name + "#" + std::to_string(i);
    output.dtype = specs[i].dtype;
    output.shape = specs[i].shape;
    output.kind = specs[i].dtype == DType::kFloat64 ? ValueKind::kLoss : ValueKind::kTemporary;
    output.layer = layer;
    outputs.push_back(append(values_, std::move(output)));
  }
  nodes_.push_back(
      {op, std::move(params), std::move(inputs), outputs, name, layer, Phase::kForward, false});
  return outputs;
}

}  // namespace hetmem
