#include "runtime/memory_plan.h"

#include <gtest/gtest.h>

#include "core/philox.h"
#include "device/thread_pool.h"
#include "models/models.h"
#include "ops/ops.h"
#include "runtime/executor.h"
#include "runtime/program.h"

namespace hetmem {
namespace {

const std::vector<std::pair<const char*, const char*>>& real_models() {
  static const std::vector<std::pair<const char*, const char*>> models{
      {"gpt2", R"({"model_type":"gpt2","vocab_size":50257,"n_positions":1024,"n_embd":768,
                   "n_layer":12,"n_head":12})"},
      {"smollm2", R"({"model_type":"llama","vocab_size":49152,"hidden_size":576,
                      "intermediate_size":1536,"num_hidden_layers":30,"num_attention_heads":9,
                      "num_key_value_heads":3,"max_position_embeddings":8192,"rms_norm_eps":1e-5,
                      "tie_word_embeddings":true})"},
      {"qwen2.5", R"({"model_type":"qwen2","vocab_size":151936,"hidden_size":896,
                      "intermediate_size":4864,"num_hidden_layers":24,"num_attention_heads":14,
                      "num_key_value_heads":2,"max_position_embeddings":32768,
                      "rms_norm_eps":1e-6,"tie_word_embeddings":true})"},
      {"qwen3", R"({"model_type":"qwen3","vocab_size":151936,"hidden_size":1024,
                    "intermediate_size":3072,"num_hidden_layers":28,"num_attention_heads":16,
                    "num_key_value_heads":8,"head_dim":128,"max_position_embeddings":40960,
                    "rms_norm_eps":1e-6,"tie_word_embeddings":false})"}};
  return models;
}

TEST(MemoryPlan, ThePoolIsCloseToItsLowerBound) {
  for (const auto& [name, json] : real_models()) {
    for (const int64_t batch : {1, 4}) {
      for (const int64_t sequence : {64, 1024}) {
        TrainConfig config;
        config.batch_size = batch;
        const Program program = compile_training(parse_model_config(json, name), config, sequence);
        verify(program);
        for (const bool pooled : {false, true}) {
          const MemoryPlan plan = plan_memory(program, 2, pooled);
          int64_t pool = 0;
          for (const int64_t bytes : plan.pool) pool += bytes;
          EXPECT_GE(pool, plan.pool_lower_bound);
          EXPECT_LE(static_cast<double>(pool), 1.02 * static_cast<double>(plan.pool_lower_bound))
              << name << " batch " << batch << " sequence " << sequence;
        }
      }
    }
  }
}

constexpr const char* kTiny = R"({"model_type":"qwen3","vocab_size":61,"hidden_size":32,
  "intermediate_size":48,"num_hidden_layers":3,"num_attention_heads":4,"num_key_value_heads":2,
  "head_dim":16,"max_position_embeddings":16,"rms_norm_eps":1e-6,"tie_word_embeddings":true})";

// Loss and gradients of one micro-batch under some compile options.
std::vector<float> gradients_of(const CompileOptions& options, bool pooled = false) {
  const ModelConfig model = parse_model_config(kTiny, "tiny");
  CompileOptions all = options;
  all.workspace = [](OpKind kind, const OpParams& params, const std::vector<Value>& inputs) {
    std::vector<Shape> shapes;
    for (const Value& value : inputs) shapes.push_back(value.shape);
    return ops::workspace_bytes(kind, params, shapes);
  };
  const Program program = compile(build_graph(model, {2, 8}, true), all);
  verify(program);
  const MemoryPlan plan = plan_memory(program, 2, pooled);
  Tier device("device", int64_t{1} << 30);
  ThreadPool pool(2);
  CpuStream stream("compute", pool);
  Buffer weights(device, plan.weights.bytes, MemoryKind::kWeights, MemorySpace::kDevice);
  Buffer gradients(device, plan.gradients.bytes, MemoryKind::kGradients, MemorySpace::kDevice);
  ParameterViews views;
  for (size_t i = 0; i < program.weights.size(); ++i) {
    const Value& value = program.value(program.weights[i]);
    views.weights.push_back(weights.view(plan.weights.offsets[i], value.dtype, value.shape));
    views.gradients.push_back(
        pooled ? TensorView{}
               : gradients.view(plan.gradients.offsets[i], value.dtype, value.shape));
    for (int64_t e = 0; e < value.shape.elements(); ++e) {
      views.weights.back().as<float>()[e] =
          0.2F * static_cast<float>(normal_pair(1, i, static_cast<uint64_t>(e))[0]);
    }
  }
  std::vector<int32_t> tokens(16);
  std::vector<int32_t> labels(16);
  for (int32_t i = 0; i < 16; ++i) {
    tokens[static_cast<size_t>(i)] = (i * 7) % 61;
    labels[static_cast<size_t>(i)] = i == 5 ? -100 : (i * 11) % 61;
  }
  Executor executor(program, plan, device, stream, views);
  executor.clear_loss();
  OpRuntime runtime;
  runtime.loss_scale = 1.0 / 15;
  executor.run(tokens, labels, runtime);
  std::vector<float> result{static_cast<float>(executor.loss())};
  for (size_t i = 0; i < program.weights.size(); ++i) {
    const TensorView view = executor.gradient(i);
    result.insert(result.end(), view.as<float>(), view.as<float>() + view.elements());
  }
  return result;
}

TEST(MemoryPlan, SharingMemoryChangesNoBit) {
  CompileOptions apart;
  apart.in_place = false;
  const std::vector<float> together = gradients_of({});
  EXPECT_EQ(together, gradients_of(apart));
  CompileOptions kept;
  kept.remake = false;
  EXPECT_EQ(together, gradients_of(kept));
  EXPECT_EQ(together, gradients_of({}, true));  // gradients in the place of activations
  EXPECT_GT(together[0], 15 * 3.0F);            // about 15 labels times ln 61
}

TEST(MemoryPlan, InPlaceWritesAndRemakingSaveMemory) {
  const ModelConfig model = parse_model_config(kTiny, "tiny");
  CompileOptions apart;
  apart.in_place = false;
  const Graph graph = build_graph(model, {2, 8}, true);
  EXPECT_LT(total(plan_memory(compile(graph, {}), 2).pool),
            total(plan_memory(compile(graph, apart), 2).pool));
  CompileOptions kept;
  kept.remake = false;
  EXPECT_LT(total(plan_memory(compile(graph, {}), 2).pool),
            total(plan_memory(compile(graph, kept), 2).pool));
}

}  // namespace
}  // namespace hetmem
