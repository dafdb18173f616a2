// GPT-2 (Radford et al. 2019) as Hugging Face's GPT2LMHeadModel computes it.
#include <cmath>

#include "models/families.h"

namespace hetmem::models {
namespace {

std::string block(int64_t layer) { return "transformer.h." + std::to_string(layer) + "."; }

ValueId layer_norm(Builder& builder, const ModelConfig& config, ValueId x,
                   const std::string& name) {
  return builder.op(OpKind::kLayerNorm, NormParams{static_cast<float>(config.norm_epsilon), false},
                    {x, builder.weight(name + ".weight"), builder.weight(name + ".bias")}, name);
}

AttentionParams attention_params(Builder& builder, const ModelConfig& config, int64_t layer) {
  AttentionParams params;
  params.heads = params.kv_heads = config.heads;
  params.head_dim = config.head_dim;
  params.packed = true;
  double scale = config.scale_attention ? 1.0 / std::sqrt(static_cast<double>(config.head_dim)) : 1;
  if (config.scale_attention_by_layer) scale /= static_cast<double>(layer + 1);
  params.scale = static_cast<float>(scale);
  if (builder.training() && config.attention_dropout > 0) {
    params.dropout = static_cast<float>(config.attention_dropout);
    params.dropout_site = builder.next_dropout_site();
  }
  return params;
}

ValueId attention_block(Builder& builder, const ModelConfig& config, ValueId x, int64_t layer) {
  const std::string at = block(layer);
  const ValueId normed = layer_norm(builder, config, x, at + "ln_1");
  const ValueId qkv = builder.linear(normed, at + "attn.c_attn", true);
  const ValueId attended =
      builder.op(OpKind::kAttention, attention_params(builder, config, layer), {qkv}, at + "attn");
  const ValueId projected = builder.linear(attended, at + "attn.c_proj", true);
  return builder.op(OpKind::kAdd, {},
                    {builder.dropout(projected, config.residual_dropout, at + "attn.dropout"), x},
                    at + "attn.residual");
}

ValueId mlp_block(Builder& builder, const ModelConfig& config, ValueId x, int64_t layer) {
  const std::string at = block(layer);
  const ValueId normed = layer_norm(builder, config, x, at + "ln_2");
  const ValueId wide = builder.linear(normed, at + "mlp.c_fc", true);
  const ValueId active =
      builder.op(OpKind::kGelu, GeluParams{config.gelu_tanh}, {wide}, at + "mlp.act");
  const ValueId projected = builder.linear(active, at + "mlp.c_proj", true);
  return builder.op(OpKind::kAdd, {},
                    {builder.dropout(projected, config.residual_dropout, at + "mlp.dropout"), x},
                    at + "mlp.residual");
}

}  // namespace

std::vector<WeightSpec> gpt2_weights(const ModelConfig& config) {
  const int64_t c = config.width;
  const Initializer normal{Initializer::Kind::kNormal, config.initializer_range};
  // Residual projections are scaled down with depth (GPT-2 paper, section 2.3).
  const Initializer projection{
      Initializer::Kind::kNormal,
      config.initializer_range / std::sqrt(2.0 * static_cast<double>(config.layers))};
  const Initializer zeros{Initializer::Kind::kZeros, 0};
  const Initializer ones{Initializer::Kind::kOnes, 0};
  std::vector<WeightSpec> weights{{"transformer.wte.weight", {config.vocabulary, c}, normal, true},
                                  {"transformer.wpe.weight", {config.positions, c}, normal, true}};
  const auto norm = [&](const std::string& name) {
    weights.push_back({name + ".weight", {c}, ones, false});
    weights.push_back({name + ".bias", {c}, zeros, false});
  };
  const auto conv1d = [&](const std::string& name, int64_t in, int64_t out,
                          const Initializer& initializer) {
    weights.push_back({name + ".weight", {in, out}, initializer, true});
    weights.push_back({name + ".bias", {out}, zeros, false});
  };
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    norm(block(layer) + "ln_1");
    conv1d(block(layer) + "attn.c_attn", c, 3 * c, normal);
    conv1d(block(layer) + "attn.c_proj", c, c, projection);
    norm(block(layer) + "ln_2");
    conv1d(block(layer) + "mlp.c_fc", c, config.inner_width, normal);
    conv1d(block(layer) + "mlp.c_proj", config.inner_width, c, projection);
  }
  norm("transformer.ln_f");
  if (!config.tied_embeddings) {
    weights.push_back({"lm_head.weight", {config.vocabulary, c}, normal, true});
  }
  return weights;
}

ValueId gpt2_hidden(Builder& builder, const ModelConfig& config, ValueId tokens) {
  ValueId x = builder.op(
      OpKind::kEmbedding, EmbeddingParams{true, false},
      {tokens, builder.weight("transformer.wte.weight"), builder.weight("transformer.wpe.weight")},
      "transformer.embedding");
  x = builder.dropout(x, config.embedding_dropout, "transformer.drop");
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    builder.set_layer(static_cast<int>(layer));
    x = attention_block(builder, config, x, layer);
    x = mlp_block(builder, config, x, layer);
  }
  builder.set_layer(-1);
  return layer_norm(builder, config, x, "transformer.ln_f");
}

}  // namespace hetmem::models
