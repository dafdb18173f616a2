#include "models/models.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace hetmem {
namespace {

constexpr const char* kLlama = R"({"model_type":"llama","vocab_size":100,"hidden_size":64,
  "intermediate_size":96,"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,
  "max_position_embeddings":32,"rms_norm_eps":1e-6,"rope_theta":10000.0)";

ModelConfig llama(const std::string& more) {
  return parse_model_config(std::string(kLlama) + more + "}", "config.json");
}

int64_t parameters(const ModelConfig& config) {
  int64_t sum = 0;
  for (const WeightSpec& spec : weight_specs(config)) sum += spec.shape.elements();
  return sum;
}

// The sizes that the models were published with.
TEST(Models, ParameterCountsArePublishedOnes) {
  EXPECT_EQ(parameters(parse_model_config(
                R"({"model_type":"gpt2","vocab_size":50257,"n_positions":1024,"n_embd":768,
                "n_layer":12,"n_head":12})",
                "gpt2")),
            124439808);
  EXPECT_EQ(parameters(parse_model_config(
                R"({"model_type":"llama","vocab_size":49152,"hidden_size":576,
                "intermediate_size":1536,"num_hidden_layers":30,"num_attention_heads":9,
                "num_key_value_heads":3,"max_position_embeddings":8192,"rms_norm_eps":1e-5,
                "tie_word_embeddings":true})",
                "smollm2")),
            134515008);
  EXPECT_EQ(parameters(parse_model_config(
                R"({"model_type":"llama","vocab_size":128256,"hidden_size":2048,
                "intermediate_size":8192,"num_hidden_layers":16,"num_attention_heads":32,
                "num_key_value_heads":8,"head_dim":64,"max_position_embeddings":131072,
                "rms_norm_eps":1e-5,"tie_word_embeddings":true})",
                "llama-3.2-1b")),
            1235814400);
  EXPECT_EQ(parameters(parse_model_config(
                R"({"model_type":"qwen2","vocab_size":151936,"hidden_size":896,
                "intermediate_size":4864,"num_hidden_layers":24,"num_attention_heads":14,
                "num_key_value_heads":2,"max_position_embeddings":32768,"rms_norm_eps":1e-6,
                "tie_word_embeddings":true})",
                "qwen2.5-0.5b")),
            494032768);
  EXPECT_EQ(parameters(parse_model_config(
                R"({"model_type":"qwen3","vocab_size":151936,"hidden_size":1024,
                "intermediate_size":3072,"num_hidden_layers":28,"num_attention_heads":16,
                "num_key_value_heads":8,"head_dim":128,"max_position_embeddings":40960,
                "rms_norm_eps":1e-6,"tie_word_embeddings":true})",
                "qwen3-0.6b")),
            596049920);
}

TEST(Models, OldAndNewKeysSayTheSame) {
  const std::string scaling =
      R"("rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,
         "original_max_position_embeddings":16)";
  const ModelConfig old_form =
      llama(R"(,"torch_dtype":"bfloat16","rope_scaling":{)" + scaling + "}");
  const ModelConfig new_form =
      llama(R"(,"dtype":"bfloat16","rope_parameters":{"rope_theta":10000.0,)" + scaling + "}");
  EXPECT_EQ(old_form.dtype, DType::kBFloat16);
  EXPECT_EQ(new_form.dtype, DType::kBFloat16);
  EXPECT_EQ(rope_table(old_form, 32), rope_table(new_form, 32));
  EXPECT_NE(rope_table(old_form, 32), rope_table(llama(""), 32));
}

TEST(Models, RopeTableIsTheFormula) {
  const std::vector<float> table = rope_table(llama(""), 32);
  for (const int position : {0, 1, 31}) {
    for (const int i : {0, 3, 7}) {
      const double angle = position * std::pow(10000.0, -2.0 * i / 16);
      // Hugging Face makes angles in fp32: position times one rounding of the frequency.
      EXPECT_NEAR(table[static_cast<size_t>(position * 16 + i)], std::cos(angle), 4e-6);
      EXPECT_NEAR(table[static_cast<size_t>(position * 16 + 8 + i)], std::sin(angle), 4e-6);
    }
  }
}

TEST(Models, DecaySkipsBiasesAndNorms) {
  for (const WeightSpec& spec : weight_specs(llama(R"(,"attention_bias":true)"))) {
    EXPECT_EQ(spec.decays, spec.shape.rank() > 1) << spec.name;
  }
}

TEST(Models, GraphsHoldTheWeightsOfTheTable) {
  const ModelConfig config = llama(R"(,"tie_word_embeddings":false,"head_dim":24)");
  const Graph graph = build_graph(config, {2, 8}, true);
  std::vector<std::string> names;
  for (const Value& value : graph.values()) {
    if (value.kind == ValueKind::kWeight) names.push_back(value.name);
  }
  std::vector<std::string> expected;
  for (const WeightSpec& spec : weight_specs(config)) expected.push_back(spec.name);
  EXPECT_EQ(names, expected);
}

TEST(Models, TooLongSequencesAreRefused) {
  EXPECT_THROW(build_graph(llama(""), {1, 33}, true), Error);
}

}  // namespace
}  // namespace hetmem
