#include "models/models.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

#include "core/error.h"
#include "models/families.h"

namespace hetmem {
namespace {

constexpr std::string_view kGpt2Prefix = "transformer.";

bool starts_with(std::string_view text, std::string_view prefix) {
  return text.substr(0, prefix.size()) == prefix;
}
bool ends_with(std::string_view text, std::string_view suffix) {
  return text.size() >= suffix.size() && text.substr(text.size() - suffix.size()) == suffix;
}

// The inverse frequencies in fp32, scaled as rope_type "linear" and "llama3" say.
std::vector<float> inverse_frequencies(const ModelConfig& config) {
  std::vector<float> frequencies;
  const auto dimension = static_cast<float>(config.head_dim);
  for (int64_t i = 0; i < config.head_dim; i += 2) {
    const float exponent = static_cast<float>(i) / dimension;
    float frequency = 1.0F / std::pow(static_cast<float>(config.rope_theta), exponent);
    frequency /= static_cast<float>(config.linear_rope_factor);
    if (config.rope_scaling) {
      const Llama3RopeScaling& scaling = *config.rope_scaling;
      const double wavelength = 2.0 * std::numbers::pi / frequency;
      const double low = scaling.original_positions / scaling.low_frequency_factor;
      const double high = scaling.original_positions / scaling.high_frequency_factor;
      if (wavelength > low) {
        frequency = static_cast<float>(frequency / scaling.factor);
      } else if (wavelength >= high) {
        const double smooth =
            (scaling.original_positions / wavelength - scaling.low_frequency_factor) /
            (scaling.high_frequency_factor - scaling.low_frequency_factor);
        frequency =
            static_cast<float>((1 - smooth) * frequency / scaling.factor + smooth * frequency);
      }
    }
    frequencies.push_back(frequency);
  }
  return frequencies;
}

}  // namespace

namespace models {

Builder::Builder(Graph& graph, const ModelConfig& config, const std::vector<WeightSpec>& weights,
                 bool training)
    : graph_(graph), training_(training) {
  const std::string layer_prefix =
      config.family == ModelFamily::kGpt2 ? "transformer.h." : "model.layers.";
  for (const WeightSpec& spec : weights) {
    const int layer = starts_with(spec.name, layer_prefix)
                          ? std::stoi(spec.name.substr(layer_prefix.size()))
                          : -1;
    weights_.emplace_back(spec.name, graph.add_weight(spec.name, spec.shape, layer));
  }
  std::sort(weights_.begin(), weights_.end());
}

ValueId Builder::weight(const std::string& name) const {
  const auto found = std::lower_bound(weights_.begin(), weights_.end(), name,
                                      [](const std::pair<std::string, ValueId>& entry,
                                         const std::string& key) { return entry.first < key; });
  return found != weights_.end() && found->first == name ? found->second : kNoValue;
}

ValueId Builder::op(OpKind kind, OpParams params, std::vector<ValueId> inputs,
                    const std::string& name) {
  return graph_.add_op(kind, std::move(params), std::move(inputs), name, layer_).front();
}

ValueId Builder::linear(ValueId x, const std::string& name, bool weight_in_out) {
  std::vector<ValueId> inputs{x, weight(name + ".weight")};
  const ValueId bias = weight(name + ".bias");
  if (bias != kNoValue) inputs.push_back(bias);
  return op(OpKind::kLinear, LinearParams{weight_in_out, bias != kNoValue, false}, inputs, name);
}

ValueId Builder::dropout(ValueId x, double probability, const std::string& name) {
  if (!training_ || probability == 0) return x;
  return op(OpKind::kDropout, DropoutParams{static_cast<float>(probability), next_dropout_site()},
            {x}, name);
}

}  // namespace models

std::vector<WeightSpec> weight_specs(const ModelConfig& config) {
  return config.family == ModelFamily::kGpt2 ? models::gpt2_weights(config)
                                             : models::llama_weights(config);
}

Graph build_graph(const ModelConfig& config, const GraphShape& shape, bool training) {
  if (shape.sequence > config.positions) {
    throw Error(ErrorKind::kBadInput,
                "a sequence of " + std::to_string(shape.sequence) + " tokens is longer than the " +
                    std::to_string(config.positions) + " positions of the model");
  }
  Graph graph;
  const Shape tokens_shape{shape.batch, shape.sequence};
  const ValueId tokens = graph.add_input("tokens", DType::kInt32, tokens_shape);
  const ValueId labels = graph.add_input("labels", DType::kInt32, tokens_shape);
  models::Builder builder(graph, config, weight_specs(config), training);
  const bool gpt2 = config.family == ModelFamily::kGpt2;
  ValueId hidden = kNoValue;
  if (gpt2) {
    hidden = models::gpt2_hidden(builder, config, tokens);
  } else {
    const ValueId table = graph.add_constant("rope", {shape.sequence, config.head_dim},
                                             rope_table(config, shape.sequence));
    hidden = models::llama_hidden(builder, config, tokens, table);
  }
  const std::string embedding = gpt2 ? "transformer.wte.weight" : "model.embed_tokens.weight";
  builder.op(
      OpKind::kHeadLoss, HeadParams{},
      {hidden, builder.weight(config.tied_embeddings ? embedding : "lm_head.weight"), labels},
      "loss");
  return graph;
}

std::vector<std::string> names_in_folder(const ModelConfig& config, const std::string& weight) {
  std::vector<std::string> names{weight};
  const std::string_view prefix =
      config.family == ModelFamily::kGpt2 ? kGpt2Prefix : std::string_view("model.");
  if (starts_with(weight, prefix)) names.push_back(weight.substr(prefix.size()));
  return names;
}

bool is_ignored_tensor(const ModelConfig& config, const std::string& name) {
  if (config.family == ModelFamily::kGpt2 &&
      (ends_with(name, ".attn.bias") || ends_with(name, ".attn.masked_bias"))) {
    return true;
  }
  if (ends_with(name, ".rotary_emb.inv_freq")) return true;
  return config.tied_embeddings && name == "lm_head.weight";
}

std::vector<float> rope_table(const ModelConfig& config, int64_t positions) {
  const std::vector<float> frequencies = inverse_frequencies(config);
  const size_t half = frequencies.size();
  std::vector<float> table(static_cast<size_t>(positions) * 2 * half);
  for (int64_t position = 0; position < positions; ++position) {
    float* row = table.data() + static_cast<size_t>(position) * 2 * half;
    for (size_t i = 0; i < half; ++i) {
      const float angle = static_cast<float>(position) * frequencies[i];
      row[i] = std::cos(angle);
      row[half + i] = std::sin(angle);
    }
  }
  return table;
}

}  // namespace hetmem
