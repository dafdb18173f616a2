#include "graph/op_table.h"

#include <array>
#include <utility>

#include "core/error.h"
#include "graph/gradient_builder.h"

namespace hetmem {
namespace {

using Values = std::vector<Value>;
using Outputs = std::vector<OutputSpec>;

// Programmer's mistakes in a model builder: named, so that they are found.
void require(bool condition, OpKind op, const std::string& what, const Values& inputs) {
  if (condition) return;
  std::string shapes;
  for (const Value& value : inputs) shapes += " " + value.name + value.shape.to_string();
  throw Error(ErrorKind::kInternal,
              "op " + std::string(name_of(op)) + ": " + what + "; operands:" + shapes);
}

void require_count(OpKind op, size_t count, const Values& inputs) {
  require(inputs.size() == count, op, "takes " + std::to_string(count) + " operands", inputs);
}

Shape with_last(const Shape& shape, int64_t last) {
  Shape result;
  for (int i = 0; i + 1 < shape.rank(); ++i) result.append(shape[i]);
  result.append(last);
  return result;
}

template <typename Params>
const Params& get(const OpParams& params) {
  return std::get<Params>(params);
}

OutputSpec like(const Value& value) { return {value.dtype, value.shape}; }
OutputSpec fp32(const Shape& shape) { return {DType::kFloat32, shape}; }
OutputSpec loss_spec() { return {DType::kFloat64, Shape{1}}; }

double elements(const Value& value) { return static_cast<double>(value.shape.elements()); }
double element_flops(const OpParams&, const Values& inputs) { return elements(inputs[0]); }

// ---- embedding --------------------------------------------------------------------------------

Outputs embedding_outputs(const OpParams& params, const Values& in) {
  const bool positions = get<EmbeddingParams>(params).has_positions;
  require_count(OpKind::kEmbedding, positions ? 3 : 2, in);
  require(in[0].shape.rank() == 2 && in[1].shape.rank() == 2, OpKind::kEmbedding,
          "tokens are [B,T], the table [V,C]", in);
  require(!positions || (in[2].shape[1] == in[1].shape[1] && in[2].shape[0] >= in[0].shape[1]),
          OpKind::kEmbedding, "positions are [P,C], P >= T", in);
  return {fp32({in[0].shape[0], in[0].shape[1], in[1].shape[1]})};
}

void embedding_gradient(GradientBuilder& builder, const Node& node) {
  const ValueId dy = builder.gradient(node.outputs[0]);
  if (dy == kNoValue) return;
  auto params = get<EmbeddingParams>(node.params);
  params.accumulate_table = builder.gradient(node.inputs[1]) != kNoValue;
  builder.emit_weight_gradients(node, OpKind::kEmbeddingBackward, params, {node.inputs[0], dy},
                                std::vector<ValueId>(node.inputs.begin() + 1, node.inputs.end()));
}

// ---- linear -----------------------------------------------------------------------------------

Outputs linear_outputs(const OpParams& params, const Values& in) {
  const auto& p = get<LinearParams>(params);
  require_count(OpKind::kLinear, 2 + (p.has_bias ? 1 : 0) + (p.has_addend ? 1 : 0), in);
  const int64_t k = in[1].shape[p.weight_in_out ? 0 : 1];
  const int64_t n = in[1].shape[p.weight_in_out ? 1 : 0];
  require(in[0].shape[-1] == k, OpKind::kLinear, "the width of x is that of the weight", in);
  require(!p.has_bias || in[2].shape == Shape{n}, OpKind::kLinear, "the bias is [N]", in);
  const Shape y = with_last(in[0].shape, n);
  require(!p.has_addend || in.back().shape == y, OpKind::kLinear, "the residual is like y", in);
  return {fp32(y)};
}

void linear_gradient(GradientBuilder& builder, const Node& node) {
  const ValueId dy = builder.gradient(node.outputs[0]);
  if (dy == kNoValue) return;
  auto params = get<LinearParams>(node.params);
  if (params.has_addend) builder.contribute(node.inputs.back(), dy);
  params.has_addend = false;
  // The input's gradient first: it is the last to read the weight, whose place the weight's
  // gradient may then take.
  if (builder.needs_gradient(node.inputs[0])) {
    auto of_input = params;
    of_input.has_bias = false;
    builder.emit_input_gradient(node, OpKind::kLinearBackwardInput, of_input, {dy, node.inputs[1]},
                                node.inputs[0], {}, true);
  }
  std::vector<ValueId> weights{node.inputs[1]};
  if (params.has_bias) weights.push_back(node.inputs[2]);
  builder.emit_weight_gradients(node, OpKind::kLinearBackwardWeight, params, {node.inputs[0], dy},
                                weights);
}

double linear_flops(const OpParams&, const Values& in) {
  return 2.0 * static_cast<double>(in[0].shape.rows()) * elements(in[1]);
}
double weight_gradient_flops(const OpParams&, const Values& in) {
  return 2.0 * elements(in[0]) * static_cast<double>(in[1].shape[-1]);
}

// ---- norms ------------------------------------------------------------------------------------

Outputs layer_norm_outputs(const OpParams&, const Values& in) {
  require_count(OpKind::kLayerNorm, 3, in);
  require(in[1].shape == Shape{in[0].shape[-1]} && in[2].shape == in[1].shape, OpKind::kLayerNorm,
          "weight and bias are [C]", in);
  return {like(in[0]), fp32({in[0].shape.rows(), 2})};
}

Outputs rms_norm_outputs(const OpParams&, const Values& in) {
  require_count(OpKind::kRmsNorm, 2, in);
  require(in[1].shape.rank() == 1 && in[0].shape[-1] % in[1].shape[0] == 0, OpKind::kRmsNorm,
          "the weight is [C] and divides the width of x", in);
  return {like(in[0]), fp32({in[0].shape.elements() / in[1].shape[0]})};
}

void norm_gradient(GradientBuilder& builder, const Node& node) {
  const ValueId dy = builder.gradient(node.outputs[0]);
  if (dy == kNoValue) return;
  const OpKind op =
      node.op == OpKind::kLayerNorm ? OpKind::kLayerNormBackward : OpKind::kRmsNormBackward;
  const std::vector<ValueId> weights(node.inputs.begin() + 1, node.inputs.end());
  builder.emit_input_gradient(node, op, node.params,
                              {dy, node.inputs[0], node.inputs[1], node.outputs[1]}, node.inputs[0],
                              weights, true);
}

double norm_flops(const OpParams&, const Values& in) { return 8.0 * elements(in[0]); }

// ---- attention and rope -----------------------------------------------------------------------

Outputs rope_outputs(const OpParams& params, const Values& in) {
  require_count(OpKind::kRope, 2, in);
  const int64_t d = get<RopeParams>(params).head_dim;
  require(in[0].shape.rank() == 3 && in[0].shape[2] % d == 0 && in[1].shape[1] == d &&
              in[1].shape[0] >= in[0].shape[1],
          OpKind::kRope, "x is [B,T,n*D], the table [>=T,D]", in);
  return {like(in[0])};
}

void rope_gradient(GradientBuilder& builder, const Node& node) {
  const ValueId dy = builder.gradient(node.outputs[0]);
  if (dy == kNoValue || !builder.needs_gradient(node.inputs[0])) return;
  auto params = get<RopeParams>(node.params);
  params.inverse = !params.inverse;
  builder.emit_input_gradient(node, OpKind::kRope, params, {dy, node.inputs[1]}, node.inputs[0], {},
                              false);
}

Outputs attention_outputs(const OpParams& params, const Values& in) {
  const auto& p = get<AttentionParams>(params);
  require_count(OpKind::kAttention, p.packed ? 1 : 3, in);
  const int64_t q_width = p.heads * p.head_dim;
  const int64_t kv_width = p.kv_heads * p.head_dim;
  if (p.packed) {
    require(in[0].shape[-1] == q_width + 2 * kv_width, OpKind::kAttention, "qkv is [B,T,(H+2G)*D]",
            in);
  } else {
    require(in[0].shape[-1] == q_width && in[1].shape[-1] == kv_width && in[2].shape == in[1].shape,
            OpKind::kAttention, "q is [B,T,H*D], k and v [B,T,G*D]", in);
  }
  const int64_t b = in[0].shape[0];
  const int64_t t = in[0].shape[1];
  return {fp32({b, t, q_width}), fp32({b, p.heads, t})};
}

void attention_gradient(GradientBuilder& builder, const Node& node) {
  const ValueId dy = builder.gradient(node.outputs[0]);
  if (dy == kNoValue) return;
  std::vector<ValueId> inputs = node.inputs;
  inputs.insert(inputs.end(), {node.outputs[0], node.outputs[1], dy});
  const auto made =
      builder.emit(node, OpKind::kAttentionBackward, node.params, inputs, node.inputs);
  for (size_t i = 0; i < made.size(); ++i) builder.contribute(node.inputs[i], made[i]);
}

double attention_flops(const OpParams& params, const Values& in) {
  const auto& p = get<AttentionParams>(params);
  const auto t = static_cast<double>(in[0].shape[1]);
  return 2.0 * static_cast<double>(in[0].shape[0] * p.heads * p.head_dim) * t * (t + 1);
}
double attention_backward_flops(const OpParams& params, const Values& in) {
  return 2.5 * attention_flops(params, in);
}

// ---- element-wise -----------------------------------------------------------------------------

Outputs same_as_first(const OpParams&, const Values& in) { return {like(in[0])}; }

Outputs binary_outputs(const OpParams&, const Values& in) {
  require(in.size() == 2 && in[0].shape == in[1].shape, OpKind::kAdd, "operands are alike", in);
  return {like(in[0])};
}

void gelu_gradient(GradientBuilder& builder, const Node& node) {
  const ValueId dy = builder.gradient(node.outputs[0]);
  if (dy == kNoValue || !builder.needs_gradient(node.inputs[0])) return;
  builder.emit_input_gradient(node, OpKind::kGeluBackward, node.params, {dy, node.inputs[0]},
                              node.inputs[0], {}, false);
}

void swiglu_gradient(GradientBuilder& builder, const Node& node) {
  const ValueId dy = builder.gradient(node.outputs[0]);
  if (dy == kNoValue) return;
  const auto made = builder.emit(node, OpKind::kSwigluBackward, node.params,
                                 {dy, node.inputs[0], node.inputs[1]}, node.inputs);
  for (size_t i = 0; i < made.size(); ++i) builder.contribute(node.inputs[i], made[i]);
}

void add_gradient(GradientBuilder& builder, const Node& node) {
  const ValueId dy = builder.gradient(node.outputs[0]);
  if (dy == kNoValue) return;
  for (const ValueId input : node.inputs) builder.contribute(input, dy);
}

void dropout_gradient(GradientBuilder& builder, const Node& node) {
  const ValueId dy = builder.gradient(node.outputs[0]);
  if (dy == kNoValue || !builder.needs_gradient(node.inputs[0])) return;
  builder.emit_input_gradient(node, OpKind::kDropout, node.params, {dy}, node.inputs[0], {}, false);
}

double activation_flops(const OpParams&, const Values& in) { return 20.0 * elements(in[0]); }

// ---- head -------------------------------------------------------------------------------------

Outputs head_outputs(const OpParams&, const Values& in) {
  require_count(OpKind::kHeadLoss, 3, in);
  require(in[0].shape[-1] == in[1].shape[-1] && in[2].shape.elements() == in[0].shape.rows(),
          OpKind::kHeadLoss, "x is [B,T,C], the weight [V,C], labels [B,T]", in);
  return {loss_spec()};
}

Outputs head_train_outputs(const OpParams& params, const Values& in) {
  Outputs outputs = head_outputs(params, in);
  outputs.push_back(like(in[0]));
  if (get<HeadParams>(params).weight_gradient) outputs.push_back(fp32(in[1].shape));
  return outputs;
}

double head_train_flops(const OpParams& params, const Values& in) {
  return (get<HeadParams>(params).weight_gradient ? 3.0 : 2.0) * linear_flops(params, in);
}

// ---- shapes of backward ops, for the verifier
// ----------------------------------------------------

Outputs embedding_backward_outputs(const OpParams&, const Values&) { return {}; }
Outputs swiglu_backward_outputs(const OpParams&, const Values& in) {
  return {like(in[1]), like(in[2])};
}
Outputs second_like(const OpParams&, const Values& in) { return {like(in[1])}; }
Outputs linear_backward_input_outputs(const OpParams& params, const Values& in) {
  return {
      fp32(with_last(in[0].shape, in[1].shape[get<LinearParams>(params).weight_in_out ? 0 : 1]))};
}
Outputs linear_backward_weight_outputs(const OpParams& params, const Values& in) {
  const auto& p = get<LinearParams>(params);
  const int64_t k = in[0].shape[-1];
  const int64_t n = in[1].shape[-1];
  Outputs outputs{fp32(p.weight_in_out ? Shape{k, n} : Shape{n, k})};
  if (p.has_bias) outputs.push_back(fp32({n}));
  return outputs;
}
Outputs layer_norm_backward_outputs(const OpParams&, const Values& in) {
  return {like(in[1]), like(in[2]), like(in[2])};
}
Outputs rms_norm_backward_outputs(const OpParams&, const Values& in) {
  return {like(in[1]), like(in[2])};
}
Outputs attention_backward_outputs(const OpParams& params, const Values& in) {
  if (get<AttentionParams>(params).packed) return {like(in[0])};
  return {like(in[0]), like(in[1]), like(in[2])};
}

std::array<OpDescription, kOpKinds> make_table() {
  using K = OpKind;
  return {{
      {K::kEmbedding, embedding_outputs, embedding_gradient, {}, element_flops},
      {K::kEmbeddingBackward, embedding_backward_outputs, nullptr, {}, element_flops},
      {K::kLinear, linear_outputs, linear_gradient, {}, linear_flops},
      {K::kLinearBackwardInput, linear_backward_input_outputs, nullptr, {}, linear_flops},
      {K::kLinearBackwardWeight,
       linear_backward_weight_outputs,
       nullptr,
       {},
       weight_gradient_flops},
      {K::kLayerNorm, layer_norm_outputs, norm_gradient, {}, norm_flops},
      // The kernels read a row of dy and of the addend before they write that row of dx.
      {K::kLayerNormBackward, layer_norm_backward_outputs, nullptr, {{0, 0}, {4, 0}}, norm_flops},
      {K::kRmsNorm, rms_norm_outputs, norm_gradient, {}, norm_flops},
      {K::kRmsNormBackward, rms_norm_backward_outputs, nullptr, {{0, 0}, {4, 0}}, norm_flops},
      {K::kRope, rope_outputs, rope_gradient, {{0, 0}}, element_flops},
      {K::kAttention, attention_outputs, attention_gradient, {}, attention_flops},
      {K::kAttentionBackward, attention_backward_outputs, nullptr, {}, attention_backward_flops},
      {K::kGelu, same_as_first, gelu_gradient, {{0, 0}}, activation_flops, true},
      {K::kGeluBackward, second_like, nullptr, {{0, 0}, {1, 0}}, activation_flops},
      {K::kSwiglu, binary_outputs, swiglu_gradient, {{0, 0}, {1, 0}}, activation_flops, true},
      {K::kSwigluBackward, swiglu_backward_outputs, nullptr, {{1, 0}, {2, 1}}, activation_flops},
      {K::kAdd, binary_outputs, add_gradient, {{0, 0}, {1, 0}}, element_flops},
      {K::kDropout, same_as_first, dropout_gradient, {{0, 0}}, element_flops},
      {K::kHeadLoss, head_outputs, nullptr, {}, linear_flops},
      {K::kHeadLossTrain, head_train_outputs, nullptr, {}, head_train_flops},
  }};
}

}  // namespace

const OpDescription& describe(OpKind kind) {
  static const std::array<OpDescription, kOpKinds> table = make_table();
  const OpDescription& description = table.at(static_cast<size_t>(kind));
  HETMEM_ASSERT(description.kind == kind);
  return description;
}

}  // namespace hetmem
