// ModelConfig: what a Hugging Face `config.json` says of GPT-2, Llama 3.x, Qwen2/2.5 and Qwen3, in
// old and new key forms. A value; reading is thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/dtype.h"

namespace hetmem {

enum class ModelFamily { kGpt2, kLlama, kQwen2, kQwen3 };

// rope_type "llama3" (Llama 3.1): see Hugging Face's modeling_rope_utils.
struct Llama3RopeScaling {
  double factor = 1;
  double low_frequency_factor = 1;
  double high_frequency_factor = 4;
  double original_positions = 8192;
};

struct ModelConfig {
  ModelFamily family = ModelFamily::kGpt2;
  int64_t vocabulary = 0;
  int64_t width = 0;        // hidden_size, n_embd
  int64_t inner_width = 0;  // intermediate_size, n_inner (4 * n_embd where absent)
  int64_t layers = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t positions = 0;  // max_position_embeddings, n_positions
  double norm_epsilon = 1e-5;
  bool tied_embeddings = true;
  bool attention_bias = false;  // on q, k, v
  bool attention_output_bias = false;
  bool mlp_bias = false;
  bool gelu_tanh = true;                  // GPT-2: gelu_new / gelu_pytorch_tanh, else erf gelu
  bool scale_attention = true;            // GPT-2: scale_attn_weights
  bool scale_attention_by_layer = false;  // GPT-2: scale_attn_by_inverse_layer_idx
  double rope_theta = 10000;
  std::optional<Llama3RopeScaling> rope_scaling;
  double linear_rope_factor = 1;  // rope_type "linear"
  double embedding_dropout = 0;
  double attention_dropout = 0;
  double residual_dropout = 0;
  double initializer_range = 0.02;
  DType dtype = DType::kFloat32;  // torch_dtype / dtype
  std::vector<int64_t> eos_token_ids;
  std::string json;  // the file as it was read, for copying
};

// Reads DIR/config.json. Throws Error (kBadInput) that names the file and the key: missing, of the
// wrong type, out of range, inconsistent, or of a kind that hetmem does not implement (by name).
ModelConfig load_model_config(const std::string& directory);
// The same from text; `source` is what messages call it.
ModelConfig parse_model_config(const std::string& json, const std::string& source);

}  // namespace hetmem
