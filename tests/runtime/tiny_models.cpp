#include "tests/runtime/tiny_models.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <stdexcept>

#include "core/philox.h"

namespace hetmem {
namespace {

std::string llama_like(const std::string& type, bool tied, const std::string& more = "") {
  return R"({"model_type":")" + type + R"(","vocab_size":131,"hidden_size":32,
    "intermediate_size":56,"num_hidden_layers":2,"num_attention_heads":4,
    "num_key_value_heads":2,"max_position_embeddings":32,"rms_norm_eps":1e-6,
    "initializer_range":0.1,"tie_word_embeddings":)" +
         (tied ? "true" : "false") + more + "}";
}

std::string gpt2(bool tied) {
  return R"({"model_type":"gpt2","vocab_size":131,"n_positions":32,"n_embd":32,"n_layer":2,
    "n_head":4,"resid_pdrop":0.1,"embd_pdrop":0.1,"attn_pdrop":0.1,"initializer_range":0.1,
    "tie_word_embeddings":)" +
         std::string(tied ? "true" : "false") + "}";
}

constexpr const char* kMachine = R"({"gemm_flops":1e11,"bf16_flops":0,"memory_bandwidth":2e10,
  "to_device":6e9,"to_host":6e9})";

void write_file(const std::string& path, const std::string& text) {
  std::ofstream file(path);
  file << text;
  if (!file.flush()) throw std::runtime_error("cannot write " + path);
}

}  // namespace

ModelFolder::ModelFolder(const std::string& config_json) {
  write_file(path() + "/config.json", config_json);
  write_file(path() + "/machine.json", kMachine);
}

const std::vector<std::pair<std::string, std::string>>& tiny_models() {
  static const std::vector<std::pair<std::string, std::string>> models{
      {"gpt2", gpt2(true)},
      {"gpt2_untied", gpt2(false)},
      {"llama", llama_like("llama", false)},
      {"llama_tied", llama_like("llama", true, R"(,"attention_bias":true)")},
      {"qwen2", llama_like("qwen2", true)},
      {"qwen2_untied", llama_like("qwen2", false)},
      {"qwen3", llama_like("qwen3", false, R"(,"head_dim":12)")},
      {"qwen3_tied", llama_like("qwen3", true, R"(,"head_dim":12)")}};
  return models;
}

std::string tiny_model(const std::string& name) {
  for (const auto& [known, json] : tiny_models()) {
    if (known == name) return json;
  }
  throw std::invalid_argument("no tiny model " + name);
}

TrainConfig tiny_config(const ModelFolder& folder) {
  TrainConfig config;
  config.model = folder.path();
  config.device = "cpu";
  config.machine = folder.path() + "/machine.json";
  config.from_scratch = true;
  config.device_memory = kAmple;
  config.host_memory = kAmple;
  config.batch_size = 2;
  config.sequence_length = 7;
  config.learning_rate = 1e-2;
  config.weight_decay = 0.1;
  config.threads = 1;
  return config;
}

RunPlan plan_of(const TrainConfig& config) {
  const ModelConfig model = load_model_config(config.model);
  const RunPrograms programs(model, config, resolved_sequence_length(config, model));
  return plan_run(programs, config, load_rates(config.machine, device_of(config)),
                  budgets_of(config));
}

std::vector<int64_t> device_budgets(TrainConfig config, int count) {
  config.device_memory = kAmple;
  const RunPlan plan = plan_of(config);
  const int64_t least = plan.smallest_device;
  const int64_t most = plan.training.plan.device.peak;
  std::vector<int64_t> budgets;
  for (int i = 0; i + 1 < count; ++i) {
    budgets.push_back(least + std::max<int64_t>(0, most - least) * i / (count - 1));
  }
  budgets.push_back(kAmple);
  return budgets;
}

std::vector<int32_t> tokens_of(const Trainer& trainer, int64_t step) {
  const auto count = trainer.sequences_per_step() * (trainer.sequence_length() + 1);
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  for (size_t i = 0; i < tokens.size(); ++i) {
    const auto draw = philox(7, static_cast<uint64_t>(step), i);
    tokens[i] = static_cast<int32_t>(draw[0] % static_cast<uint32_t>(trainer.model().vocabulary));
  }
  return tokens;
}

void take_steps(Trainer& trainer, int64_t total, Outcome& outcome) {
  while (trainer.steps_done() < total) {
    const StepReport report = trainer.step(tokens_of(trainer, trainer.steps_done()));
    outcome.losses.push_back(report.loss);
    outcome.norms.push_back(report.grad_norm);
  }
}

std::vector<float> state_of(Trainer& trainer) {
  std::vector<float> state;
  const std::vector<StateTensor> tensors = trainer.state();
  for (size_t i = 0; i < tensors.size(); ++i) {
    for (int list = 0; list <= tensors[i].moments; ++list) {
      trainer.read(static_cast<ChunkList>(list), i, [&](const float* data, int64_t count) {
        state.insert(state.end(), data, data + count);
      });
    }
  }
  return state;
}

// The words of moments in 8 bits may be those of numbers that are not equal to themselves.
bool Outcome::operator==(const Outcome& other) const {
  return losses == other.losses && norms == other.norms && state.size() == other.state.size() &&
         std::memcmp(state.data(), other.state.data(), state.size() * sizeof(float)) == 0;
}

Outcome train(const TrainConfig& config, int64_t steps) {
  Trainer trainer(config, steps);
  Outcome outcome;
  take_steps(trainer, steps, outcome);
  outcome.state = state_of(trainer);
  return outcome;
}

}  // namespace hetmem
