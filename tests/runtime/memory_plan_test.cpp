#include "runtime/memory_plan.h"

#include <gtest/gtest.h>

#include <limits>

#include "core/philox.h"
#include "device/thread_pool.h"
#include "models/models.h"
#include "ops/ops.h"
#include "runtime/program.h"
#include "runtime/step_executor.h"
#include "runtime/step_plan.h"

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

const MachineRates& rates() {
  static const MachineRates machine = [] {
    MachineRates some;
    some.gemm_flops = 1e11;
    some.memory_bandwidth = 2e10;
    some.copies = {6e9, 6e9};
    return some;
  }();
  return machine;
}
constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max() / 4;

TEST(MemoryPlan, ThePoolIsCloseToItsLowerBound) {
  for (const auto& [name, json] : real_models()) {
    for (const int64_t batch : {1, 4}) {
      for (const int64_t sequence : {64, 1024}) {
        TrainConfig config;
        config.batch_size = batch;
        const RunPrograms programs(parse_model_config(json, name), config, sequence);
        verify(programs.training);
        int64_t least = 0;
        for (const bool limited : {false, true}) {
          const TierBudgets budgets{limited ? least : kUnlimited, kUnlimited};
          const RunPlan plan = plan_run(programs, config, rates(), budgets);
          ASSERT_TRUE(plan.fits());
          least = plan.smallest_device;
          EXPECT_EQ(plan.training.plan.traffic.to_device > int64_t{64} << 20, limited);
          // Evaluation within the memory that training takes holds chunks in all of it.
          std::vector<Plan> tight{plan.training.plan};
          if (!limited) tight.push_back(plan.evaluation.plan);
          for (const Plan& step : tight) {
            EXPECT_GE(step.pool_bytes, step.pool_lower_bound);
            EXPECT_LE(static_cast<double>(step.pool_bytes),
                      1.02 * static_cast<double>(step.pool_lower_bound))
                << name << " batch " << batch << " sequence " << sequence << " limited " << limited;
          }
        }
      }
    }
  }
}

constexpr const char* kTiny = R"({"model_type":"qwen3","vocab_size":61,"hidden_size":32,
  "intermediate_size":48,"num_hidden_layers":3,"num_attention_heads":4,"num_key_value_heads":2,
  "head_dim":16,"max_position_embeddings":16,"rms_norm_eps":1e-6,"tie_word_embeddings":true})";

Program compile_tiny(const CompileOptions& options, bool workspace, int64_t batch = 2) {
  CompileOptions all = options;
  if (workspace) {
    all.workspace = [](OpKind kind, const OpParams& params, const std::vector<Value>& inputs) {
      std::vector<Shape> shapes;
      for (const Value& value : inputs) shapes.push_back(value.shape);
      return ops::workspace_bytes(DeviceKind::kCpu, kind, params, shapes);
    };
  }
  Program program = compile(build_graph(parse_model_config(kTiny, "tiny"), {batch, 8}, true), all);
  verify(program);
  return program;
}

// A plan in which no chunk stays on the device.
PlannedStep plan_step(const Program& program, const ChunkLayout& layout) {
  PlannedStep step;
  step.trace = trace_step(program, layout, {1, 1, 2}, rates());
  const std::vector<bool> stay(layout.chunks.size(), false);
  PlanOptions options;
  options.resident = &stay;
  step.plan = make_plan(step.trace.access, {kUnlimited, kUnlimited}, rates().copies, options);
  EXPECT_TRUE(step.plan.fits);
  return step;
}

// Loss and gradients of one micro-batch under some compile options.
std::vector<float> gradients_of(const CompileOptions& options) {
  const Program program = compile_tiny(options, true);
  const ChunkLayout layout = layout_of(program);
  const PlannedStep step = plan_step(program, layout);
  Tier device("device", int64_t{1} << 30);
  Tier host("host", int64_t{1} << 30);
  ThreadPool threads(2);
  CpuStream compute("compute", threads);
  CpuStream host_work("host", threads, MemorySpace::kHost);
  const std::unique_ptr<Device> cpu = make_device({}, threads);
  TransferEngine transfers(*cpu);
  ChunkManager chunks(layout, {2}, device, host, transfers);
  chunks.place(step.plan.resident);
  for (size_t i = 0; i < program.weights.size(); ++i) {
    chunks.write(ChunkList::kWeights, static_cast<int>(i),
                 [&](float* to, int64_t first, int64_t count) {
                   for (int64_t e = 0; e < count; ++e) {
                     const auto element = static_cast<uint64_t>(first + e);
                     to[e] = 0.2F * static_cast<float>(normal_pair(1, i, element)[0]);
                   }
                 });
  }
  Buffer pool(device, step.plan.pool_bytes, MemoryKind::kActivationsSaved, MemorySpace::kDevice);
  const Lanes lanes{compute, host_work, transfers};
  StepExecutor executor(program, step.trace, step.plan, chunks, pool, device, lanes);
  MicroBatch batch;
  for (int32_t i = 0; i < 16; ++i) {
    batch.tokens.push_back((i * 7) % 61);
    batch.labels.push_back(i == 5 ? -100 : (i * 11) % 61);
  }
  executor.run(std::span(&batch, 1), 1.0 / 15, [](int64_t) { return uint64_t{0}; });
  executor.finish();  // the last gradients may still be on their way
  std::vector<float> result{static_cast<float>(executor.loss())};
  for (const std::vector<PieceOf>& pieces : layout.pieces) {
    for (const PieceOf& at : pieces) {
      const ChunkPiece& piece = layout.piece(at);
      const float* data = chunks.whole(ChunkList::kGradient, at.chunk).as<float>() + piece.offset;
      result.insert(result.end(), data, data + piece.elements);
    }
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
  EXPECT_GT(together[0], 15 * 3.0F);  // about 15 labels times ln 61
}

TEST(MemoryPlan, InPlaceWritesAndRemakingSaveMemory) {
  CompileOptions apart;
  apart.in_place = false;
  CompileOptions kept;
  kept.remake = false;
  const auto bytes = [](const CompileOptions& options) {
    const Program program = compile_tiny(options, false, 32);
    const PlannedStep step = plan_step(program, layout_of(program));
    return std::pair(step.plan.smallest_device, total(plan_memory(program).pool));
  };
  const auto [step, alone] = bytes({});
  for (const CompileOptions& options : {apart, kept}) {
    const auto [more_in_a_step, more_alone] = bytes(options);
    EXPECT_LT(step, more_in_a_step);
    EXPECT_LT(alone, more_alone);
  }
}

}  // namespace
}  // namespace hetmem
