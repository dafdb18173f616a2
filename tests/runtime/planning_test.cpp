#include <gtest/gtest.h>

#include <algorithm>

#include "planner/policies.h"
#include "planner/simulate.h"
#include "runtime/program.h"
#include "runtime/step_plan.h"
#include "tests/planner/plan_check.h"

namespace hetmem {
namespace {

constexpr int64_t kPlenty = int64_t{1} << 46;

struct Model {
  const char* name;
  const char* json;
};

// The shapes of real models; the largest with fewer layers, which repeat.
constexpr Model kModels[] = {
    {"GPT-2 124M", R"({"model_type":"gpt2","vocab_size":50257,"n_positions":1024,"n_embd":768,
        "n_layer":12,"n_head":12})"},
    {"SmolLM2-135M", R"({"model_type":"llama","vocab_size":49152,"hidden_size":576,
        "intermediate_size":1536,"num_hidden_layers":30,"num_attention_heads":9,
        "num_key_value_heads":3,"max_position_embeddings":8192,"rms_norm_eps":1e-5,
        "tie_word_embeddings":true})"},
    {"Qwen2.5-0.5B", R"({"model_type":"qwen2","vocab_size":151936,"hidden_size":896,
        "intermediate_size":4864,"num_hidden_layers":24,"num_attention_heads":14,
        "num_key_value_heads":2,"max_position_embeddings":32768,"rms_norm_eps":1e-6,
        "tie_word_embeddings":true})"},
    {"Qwen3-0.6B", R"({"model_type":"qwen3","vocab_size":151936,"hidden_size":1024,
        "intermediate_size":3072,"num_hidden_layers":28,"num_attention_heads":16,
        "num_key_value_heads":8,"head_dim":128,"max_position_embeddings":40960,
        "rms_norm_eps":1e-6,"tie_word_embeddings":true})"},
    {"Llama-3 8B", R"({"model_type":"llama","vocab_size":128256,"hidden_size":4096,
        "intermediate_size":14336,"num_hidden_layers":16,"num_attention_heads":32,
        "num_key_value_heads":8,"max_position_embeddings":8192,"rms_norm_eps":1e-5,
        "tie_word_embeddings":false})"},
    {"Llama-3 70B", R"({"model_type":"llama","vocab_size":128256,"hidden_size":8192,
        "intermediate_size":28672,"num_hidden_layers":12,"num_attention_heads":64,
        "num_key_value_heads":8,"max_position_embeddings":8192,"rms_norm_eps":1e-5,
        "tie_word_embeddings":false})"}};

// A processor whose host and device are one, and a GPU beside a host.
MachineRates processor() { return {500e9, 800e9, 20e9, {6e9, 6e9}, 0, true, 0, 0, 0, "test"}; }
MachineRates accelerator() {
  return {50e12, 500e12, 2000e9, {25e9, 25e9}, 150e9, false, 0, 0, 0, "test"};
}

struct Traced {
  explicit Traced(const Model& model, const MachineRates& rates, int64_t batch = 1,
                  int64_t sequence = 512, StepTraceOptions options = {})
      : program(compile(model, batch, sequence)),
        layout(layout_of(program)),
        step(trace_step(program, layout, options, rates)) {}
  static Program compile(const Model& model, int64_t batch, int64_t sequence) {
    TrainConfig config;
    config.batch_size = batch;
    config.compute_dtype = "fp32";
    return compile_training(parse_model_config(model.json, model.name), config, sequence);
  }
  const AccessTrace& trace() const { return step.access; }

  Program program;
  ChunkLayout layout;
  StepTrace step;
};

int64_t state_of(const AccessTrace& trace) {
  return host_bytes(trace, std::vector<bool>(trace.chunks.size(), false));
}

// The fullest op by hand: buffers that live there, chunks that it reads, gradients on their way.
int64_t largest_op(const AccessTrace& trace) {
  int64_t most = 0;
  for (int op = 0; op < trace.ops(); ++op) {
    int64_t bytes = trace.fixed_bytes;
    for (const TraceBuffer& buffer : trace.buffers) {
      if (buffer.first <= op && op <= buffer.last) bytes += buffer.bytes;
    }
    for (const TraceChunk& chunk : trace.chunks) {
      const bool read = std::find(chunk.reads.begin(), chunk.reads.end(), op) != chunk.reads.end();
      const bool written =
          std::any_of(chunk.writes.begin(), chunk.writes.end(),
                      [&](const OpRun& run) { return run.first <= op && op <= run.last; });
      if (read) bytes += chunk.weight_bytes;
      if (written && !(read && chunk.in_place)) bytes += chunk.gradient_bytes;
    }
    most = std::max(most, bytes);
  }
  return most;
}

TEST(Planning, TheSmallestDeviceIsCloseToTheLargestOp) {
  for (const Model& model : kModels) {
    for (const int64_t sequence : {64, 512}) {
      SCOPED_TRACE(std::string(model.name) + ", sequence " + std::to_string(sequence));
      const Traced traced(model, processor(), 1, sequence);
      const int64_t least =
          make_plan(traced.trace(), {0, kPlenty}, processor().copies).smallest_device;
      EXPECT_LE(static_cast<double>(least), 1.05 * static_cast<double>(largest_op(traced.trace())));
      const Plan plan = make_plan(traced.trace(), {least, kPlenty}, processor().copies);
      EXPECT_TRUE(plan.fits);
      EXPECT_EQ(plan.smallest_device, least);
      EXPECT_TRUE(plan_check::problems(traced.trace(), plan, {least, kPlenty}).empty());
      const Plan below = make_plan(traced.trace(), {least / 100 * 99, kPlenty}, processor().copies);
      EXPECT_FALSE(below.fits);
      EXPECT_EQ(below.smallest_device, least);
    }
  }
}

// Other rules count bytes, and have no fragments. Where two of the largest chunks are all that has
// room beside the activations, that is worth more than a plan gains: there it may be 1 % slower.
TEST(Planning, IsNeverWorseThanOtherRules) {
  for (const Model& model : kModels) {
    for (const bool gpu : {false, true}) {
      const MachineRates rates = gpu ? accelerator() : processor();
      const Traced traced(model, rates);
      const AccessTrace& trace = traced.trace();
      const int64_t least = make_plan(trace, {0, kPlenty}, rates.copies).smallest_device;
      for (const int eighths : {0, 1, 2, 4, 6, 8}) {
        SCOPED_TRACE(std::string(model.name) + (gpu ? " on a GPU, " : " on a processor, ") +
                     std::to_string(eighths) + "/8 of its state");
        const TierBudgets budgets{least + state_of(trace) / 8 * eighths, kPlenty};
        const Plan plan = make_plan(trace, budgets, rates.copies);
        ASSERT_TRUE(plan.fits);
        const bool two_chunks = &model == &kModels[5] && gpu && eighths == 0;
        const double most = two_chunks ? 1.011 : 1 + 1e-9;
        for (const Policy policy : {Policy::kPatrickStar, Policy::kBelady}) {
          const PolicyRun run = simulate_policy(trace, budgets, rates.copies, policy);
          if (!run.fits) continue;
          EXPECT_LE(plan.step_seconds, run.step_seconds * most)
              << (policy == Policy::kBelady ? "Belady" : "PatrickStar");
        }
      }
    }
  }
}

// What a step takes longer than the same one with a host that steps in no time, beyond what its
// busiest part must.
TEST(Planning, TheOptimizerBesideAGpuIsHardlySeen) {
  const MachineRates rates = accelerator();
  for (const Model& model : kModels) {
    for (const int64_t batch : {1, 16}) {
      const Traced traced(model, rates, batch);
      AccessTrace trace = traced.trace();
      const int64_t least = make_plan(trace, {0, kPlenty}, rates.copies).smallest_device;
      const TierBudgets budgets{least + state_of(trace) / 4, kPlenty};
      const Plan plan = make_plan(trace, budgets, rates.copies);
      PlanOptions off;
      off.overlap = false;
      const double serial = make_plan(trace, budgets, rates.copies, off).step_seconds;
      for (TraceChunk& chunk : trace.chunks) chunk.host_step_seconds = chunk.early_step_seconds = 0;
      const double free = make_plan(trace, budgets, rates.copies).step_seconds;
      EXPECT_LE(plan.step_seconds, 1.05 * std::max(free, plan.lower_bound_seconds))
          << model.name << ", batch " << batch << ": " << free << " s, bound "
          << plan.lower_bound_seconds << " s, one after the other " << serial << " s";
      EXPECT_LE(plan.step_seconds, serial);
    }
  }
}

TEST(Planning, IsRightForGroupsOfMicroBatches) {
  for (const size_t which : {size_t{0}, size_t{3}}) {
    for (const int64_t group : {1, 2, 4}) {
      const Traced traced(kModels[which], processor(), 1, 64, {4, group, 2});
      const AccessTrace& trace = traced.trace();
      const int64_t least = make_plan(trace, {0, kPlenty}, processor().copies).smallest_device;
      for (const int quarters : {0, 1, 3}) {
        SCOPED_TRACE(std::string(kModels[which].name) + ", groups of " + std::to_string(group));
        const TierBudgets budgets{least + state_of(trace) / 4 * quarters, kPlenty};
        const Plan plan = make_plan(trace, budgets, processor().copies);
        const std::vector<std::string> problems = plan_check::problems(trace, plan, budgets);
        EXPECT_TRUE(problems.empty()) << problems.front();
      }
    }
  }
}

}  // namespace
}  // namespace hetmem
