#include "io/model_config.h"

#include <cmath>
#include <filesystem>

#include "core/error.h"
#include "io/file.h"
#include "io/json.h"

namespace hetmem {
namespace {

// Reads keys with their types and ranges checked; every refusal names the file and the key.
class Keys {
 public:
  Keys(const Json& json, std::string source) : json_(json), source_(std::move(source)) {}

  [[noreturn]] void refuse(const std::string& what) const {
    throw Error(ErrorKind::kBadInput, source_ + ": " + what);
  }

  bool has(const std::string& key) const { return json_.contains(key) && !json_[key].is_null(); }
  const Json& at(const std::string& key) const { return json_[key]; }

  int64_t count(const std::string& key, int64_t fallback = -1) const {
    if (!has(key)) {
      if (fallback < 0) refuse("\"" + key + "\" is missing");
      return fallback;
    }
    const Json& value = json_[key];
    constexpr int64_t kMost = int64_t{1} << 31;
    if (!value.is_number_integer() || value.get<double>() < 1 || value.get<double>() > kMost) {
      refuse("\"" + key + "\" is " + value.dump() + "; it must be a whole number from 1 to " +
             std::to_string(kMost));
    }
    return value.get<int64_t>();
  }

  double real(const std::string& key, double fallback, double least, double most) const {
    if (!has(key)) return fallback;
    const Json& value = json_[key];
    const double number = value.is_number() ? value.get<double>() : std::nan("");
    if (!(number >= least && number <= most)) {
      refuse("\"" + key + "\" is " + value.dump() + "; it must be a number from " +
             Json(least).dump() + " to " + Json(most).dump());
    }
    return number;
  }

  bool flag(const std::string& key, bool fallback) const {
    if (!has(key)) return fallback;
    if (!json_[key].is_boolean()) refuse("\"" + key + "\" must be true or false");
    return json_[key].get<bool>();
  }

  std::string text(const std::string& key, const std::string& fallback) const {
    if (!has(key)) return fallback;
    if (!json_[key].is_string()) refuse("\"" + key + "\" must be text");
    return json_[key].get<std::string>();
  }

  Keys object(const std::string& key) const {
    if (!json_[key].is_object()) refuse("\"" + key + "\" must be an object");
    return {json_[key], source_ + ", " + key};
  }

 private:
  const Json& json_;
  std::string source_;
};

constexpr double kHuge = 1e12;

ModelFamily family_of(const Keys& keys) {
  const std::string type = keys.text("model_type", "");
  if (type == "gpt2") return ModelFamily::kGpt2;
  if (type == "llama") return ModelFamily::kLlama;
  if (type == "qwen2") return ModelFamily::kQwen2;
  if (type == "qwen3") return ModelFamily::kQwen3;
  keys.refuse("model_type \"" + type +
              "\" is not one that hetmem trains; it knows gpt2, llama, qwen2 and qwen3");
}

void refuse_flag(const Keys& keys, const std::string& key) {
  if (keys.flag(key, false)) keys.refuse("\"" + key + "\" is not implemented; it must be false");
}

void read_gpt2(const Keys& keys, ModelConfig& config) {
  config.vocabulary = keys.count("vocab_size", 50257);
  config.width = keys.count("n_embd", 768);
  config.layers = keys.count("n_layer", 12);
  config.heads = config.kv_heads = keys.count("n_head", 12);
  config.positions = keys.count("n_positions", keys.count("n_ctx", 1024));
  config.inner_width = keys.count("n_inner", 4 * config.width);
  config.norm_epsilon = keys.real("layer_norm_epsilon", 1e-5, 0, 1);
  config.tied_embeddings = keys.flag("tie_word_embeddings", true);
  config.attention_bias = config.attention_output_bias = config.mlp_bias = true;
  const std::string activation = keys.text("activation_function", "gelu_new");
  if (activation != "gelu_new" && activation != "gelu_pytorch_tanh" && activation != "gelu") {
    keys.refuse("activation_function \"" + activation + "\" is not implemented");
  }
  config.gelu_tanh = activation != "gelu";
  config.scale_attention = keys.flag("scale_attn_weights", true);
  config.scale_attention_by_layer = keys.flag("scale_attn_by_inverse_layer_idx", false);
  refuse_flag(keys, "reorder_and_upcast_attn");
  refuse_flag(keys, "add_cross_attention");
  constexpr double kBelowOne = 0.999999;
  config.embedding_dropout = keys.real("embd_pdrop", 0.1, 0, kBelowOne);
  config.attention_dropout = keys.real("attn_pdrop", 0.1, 0, kBelowOne);
  config.residual_dropout = keys.real("resid_pdrop", 0.1, 0, kBelowOne);
  if (config.width % config.heads != 0) keys.refuse("n_head does not divide n_embd");
  config.head_dim = config.width / config.heads;
}

void read_rope_scaling(const Keys& rope, ModelConfig& config) {
  const std::string type = rope.text("rope_type", rope.text("type", "default"));
  if (type == "default") return;
  if (type == "linear") {
    config.linear_rope_factor = rope.real("factor", 1, 1e-6, kHuge);
    return;
  }
  if (type != "llama3") {
    rope.refuse("rope type \"" + type +
                "\" is not implemented; hetmem knows default, linear and "
                "llama3");
  }
  Llama3RopeScaling scaling;
  scaling.factor = rope.real("factor", 8, 1e-6, kHuge);
  scaling.low_frequency_factor = rope.real("low_freq_factor", 1, 1e-6, kHuge);
  scaling.high_frequency_factor = rope.real("high_freq_factor", 4, 1e-6, kHuge);
  scaling.original_positions = rope.real("original_max_position_embeddings", 8192, 1, kHuge);
  if (scaling.high_frequency_factor <= scaling.low_frequency_factor) {
    rope.refuse("high_freq_factor must be above low_freq_factor");
  }
  config.rope_scaling = scaling;
}

void read_rope(const Keys& keys, ModelConfig& config) {
  config.rope_theta = keys.real("rope_theta", 10000, 1, kHuge);
  if (keys.has("rope_scaling")) read_rope_scaling(keys.object("rope_scaling"), config);
  if (keys.has("rope_parameters")) {
    const Keys rope = keys.object("rope_parameters");
    config.rope_theta = rope.real("rope_theta", config.rope_theta, 1, kHuge);
    read_rope_scaling(rope, config);
  }
}

void refuse_sliding_windows(const Keys& keys) {
  refuse_flag(keys, "use_sliding_window");
  if (!keys.has("layer_types")) return;
  for (const Json& type : keys.at("layer_types")) {
    if (!type.is_string() || type.get<std::string>() != "full_attention") {
      keys.refuse("layer_types holds " + type.dump() + "; only full_attention is implemented");
    }
  }
}

void read_llama(const Keys& keys, ModelConfig& config) {
  const bool qwen = config.family != ModelFamily::kLlama;
  config.vocabulary = keys.count("vocab_size");
  config.width = keys.count("hidden_size");
  config.inner_width = keys.count("intermediate_size");
  config.layers = keys.count("num_hidden_layers");
  config.heads = keys.count("num_attention_heads");
  config.kv_heads = keys.count("num_key_value_heads", config.heads);
  if (config.heads % config.kv_heads != 0) {
    keys.refuse("num_key_value_heads does not divide num_attention_heads");
  }
  if (keys.has("head_dim")) {
    config.head_dim = keys.count("head_dim");
  } else if (config.family == ModelFamily::kQwen3) {
    config.head_dim = 128;
  } else {
    if (config.width % config.heads != 0) {
      keys.refuse("num_attention_heads does not divide hidden_size");
    }
    config.head_dim = config.width / config.heads;
  }
  config.positions = keys.count("max_position_embeddings", qwen ? 32768 : 2048);
  config.norm_epsilon = keys.real("rms_norm_eps", 1e-6, 0, 1);
  config.tied_embeddings = keys.flag("tie_word_embeddings", false);
  const std::string activation = keys.text("hidden_act", "silu");
  if (activation != "silu") keys.refuse("hidden_act \"" + activation + "\" is not implemented");
  if (config.family == ModelFamily::kQwen2) {
    config.attention_bias = true;
  } else {
    config.attention_bias = config.attention_output_bias = keys.flag("attention_bias", false);
  }
  config.mlp_bias = !qwen && keys.flag("mlp_bias", false);
  config.attention_dropout = keys.real("attention_dropout", 0, 0, 0.999999);
  read_rope(keys, config);
  if (keys.real("partial_rotary_factor", 1, 0, 1) != 1) {
    keys.refuse("partial_rotary_factor is not implemented; it must be 1");
  }
  refuse_sliding_windows(keys);
}

void read_common(const Keys& keys, ModelConfig& config) {
  if (keys.has("quantization_config")) {
    keys.refuse("quantization_config: quantized weights are not implemented");
  }
  config.initializer_range = keys.real("initializer_range", 0.02, 0, kHuge);
  const std::string dtype = keys.text("dtype", keys.text("torch_dtype", "float32"));
  if (dtype == "float32") {
    config.dtype = DType::kFloat32;
  } else if (dtype == "bfloat16") {
    config.dtype = DType::kBFloat16;
  } else if (dtype == "float16") {
    config.dtype = DType::kFloat16;
  } else {
    keys.refuse("dtype \"" + dtype + "\" is not one of float32, bfloat16, float16");
  }
  if (keys.has("eos_token_id")) {
    const Json& eos = keys.at("eos_token_id");
    for (const Json& id : eos.is_array() ? eos : Json::array({eos})) {
      if (!id.is_number_integer()) keys.refuse("eos_token_id must be a token id or a list of them");
      config.eos_token_ids.push_back(id.get<int64_t>());
    }
  }
  if (config.head_dim % 2 != 0 && config.family != ModelFamily::kGpt2) {
    keys.refuse("head_dim must be even");
  }
  constexpr int64_t kMaxHeadDim = 256;
  if (config.head_dim > kMaxHeadDim) {
    keys.refuse("heads of " + std::to_string(config.head_dim) +
                " are wider than the 256 that hetmem's attention takes");
  }
}

}  // namespace

ModelConfig parse_model_config(const std::string& json, const std::string& source) {
  const Json root = parse_json(json, source, {size_t{16} << 20, 64});
  if (!root.is_object()) throw Error(ErrorKind::kBadInput, source + " is not a JSON object");
  const Keys keys(root, source);
  ModelConfig config;
  config.family = family_of(keys);
  if (config.family == ModelFamily::kGpt2) {
    read_gpt2(keys, config);
  } else {
    read_llama(keys, config);
  }
  read_common(keys, config);
  config.json = json;
  return config;
}

ModelConfig load_model_config(const std::string& directory) {
  const std::string path = directory + "/config.json";
  std::error_code code;
  if (!std::filesystem::exists(path, code)) {
    throw Error(
        ErrorKind::kBadInput,
        (std::filesystem::is_directory(directory, code) ? path + " is not there"
                                                        : "there is no folder " + directory) +
            "; --model takes a Hugging Face folder on this machine: config.json, "
            "*.safetensors and tokenizer files");
  }
  return parse_model_config(read_text_file(path), path);
}

}  // namespace hetmem
