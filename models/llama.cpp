// Llama 3.x, Qwen2/2.5 and Qwen3 as Hugging Face's modeling files compute them: one builder, told
// apart by biases, q/k norms and head width.
#include <cmath>

#include "models/families.h"

namespace hetmem::models {
namespace {

std::string block(int64_t layer) { return "model.layers." + std::to_string(layer) + "."; }

ValueId rms_norm(Builder& builder, const ModelConfig& config, ValueId x, const std::string& name) {
  return builder.op(OpKind::kRmsNorm, NormParams{static_cast<float>(config.norm_epsilon), false},
                    {x, builder.weight(name + ".weight")}, name);
}

AttentionParams attention_params(Builder& builder, const ModelConfig& config) {
  AttentionParams params;
  params.heads = config.heads;
  params.kv_heads = config.kv_heads;
  params.head_dim = config.head_dim;
  params.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(config.head_dim)));
  if (builder.training() && config.attention_dropout > 0) {
    params.dropout = static_cast<float>(config.attention_dropout);
    params.dropout_site = builder.next_dropout_site();
  }
  return params;
}

ValueId attention_block(Builder& builder, const ModelConfig& config, ValueId x, ValueId table,
                        int64_t layer) {
  const std::string at = block(layer);
  const std::string attention = at + "self_attn.";
  const ValueId normed = rms_norm(builder, config, x, at + "input_layernorm");
  ValueId q = builder.linear(normed, attention + "q_proj", false);
  ValueId k = builder.linear(normed, attention + "k_proj", false);
  const ValueId v = builder.linear(normed, attention + "v_proj", false);
  if (config.family == ModelFamily::kQwen3) {
    q = rms_norm(builder, config, q, attention + "q_norm");
    k = rms_norm(builder, config, k, attention + "k_norm");
  }
  const RopeParams rope{config.head_dim, false};
  q = builder.op(OpKind::kRope, rope, {q, table}, attention + "q_rope");
  k = builder.op(OpKind::kRope, rope, {k, table}, attention + "k_rope");
  const ValueId attended = builder.op(OpKind::kAttention, attention_params(builder, config),
                                      {q, k, v}, at + "self_attn");
  const ValueId projected = builder.linear(attended, attention + "o_proj", false);
  return builder.op(OpKind::kAdd, {}, {projected, x}, attention + "residual");
}

ValueId mlp_block(Builder& builder, const ModelConfig& config, ValueId x, int64_t layer) {
  const std::string at = block(layer);
  const ValueId normed = rms_norm(builder, config, x, at + "post_attention_layernorm");
  const ValueId gate = builder.linear(normed, at + "mlp.gate_proj", false);
  const ValueId up = builder.linear(normed, at + "mlp.up_proj", false);
  const ValueId active = builder.op(OpKind::kSwiglu, {}, {gate, up}, at + "mlp.act");
  const ValueId projected = builder.linear(active, at + "mlp.down_proj", false);
  return builder.op(OpKind::kAdd, {}, {projected, x}, at + "mlp.residual");
}

}  // namespace

std::vector<WeightSpec> llama_weights(const ModelConfig& config) {
  const int64_t c = config.width;
  const Initializer normal{Initializer::Kind::kNormal, config.initializer_range};
  const Initializer zeros{Initializer::Kind::kZeros, 0};
  const Initializer ones{Initializer::Kind::kOnes, 0};
  std::vector<WeightSpec> weights{
      {"model.embed_tokens.weight", {config.vocabulary, c}, normal, true}};
  const auto norm = [&](const std::string& name, int64_t width) {
    weights.push_back({name + ".weight", {width}, ones, false});
  };
  const auto linear = [&](const std::string& name, int64_t in, int64_t out, bool bias) {
    weights.push_back({name + ".weight", {out, in}, normal, true});
    if (bias) weights.push_back({name + ".bias", {out}, zeros, false});
  };
  const int64_t q_width = config.heads * config.head_dim;
  const int64_t kv_width = config.kv_heads * config.head_dim;
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    const std::string attention = block(layer) + "self_attn.";
    norm(block(layer) + "input_layernorm", c);
    linear(attention + "q_proj", c, q_width, config.attention_bias);
    linear(attention + "k_proj", c, kv_width, config.attention_bias);
    linear(attention + "v_proj", c, kv_width, config.attention_bias);
    if (config.family == ModelFamily::kQwen3) {
      norm(attention + "q_norm", config.head_dim);
      norm(attention + "k_norm", config.head_dim);
    }
    linear(attention + "o_proj", q_width, c, config.attention_output_bias);
    norm(block(layer) + "post_attention_layernorm", c);
    linear(block(layer) + "mlp.gate_proj", c, config.inner_width, config.mlp_bias);
    linear(block(layer) + "mlp.up_proj", c, config.inner_width, config.mlp_bias);
    linear(block(layer) + "mlp.down_proj", config.inner_width, c, config.mlp_bias);
  }
  norm("model.norm", c);
  if (!config.tied_embeddings) {
    weights.push_back({"lm_head.weight", {config.vocabulary, c}, normal, true});
  }
  return weights;
}

ValueId llama_hidden(Builder& builder, const ModelConfig& config, ValueId tokens, ValueId table) {
  ValueId x = builder.op(OpKind::kEmbedding, EmbeddingParams{},
                         {tokens, builder.weight("model.embed_tokens.weight")}, "model.embedding");
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    builder.set_layer(static_cast<int>(layer));
    x = attention_block(builder, config, x, table, layer);
    x = mlp_block(builder, config, x, layer);
  }
  builder.set_layer(-1);
  return rms_norm(builder, config, x, "model.norm");
}

}  // namespace hetmem::models
