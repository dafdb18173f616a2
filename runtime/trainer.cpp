#include "runtime/trainer.h"

#include <chrono>
#include <cmath>
#include <optional>
#include <regex>

#include "core/byte_size.h"
#include "core/error.h"
#include "core/trace.h"
#include "device/stream.h"
#include "device/thread_pool.h"
#include "graph/compile.h"
#include "models/models.h"
#include "ops/ops.h"
#include "runtime/budgets.h"
#include "runtime/executor.h"
#include "runtime/memory_plan.h"
#include "runtime/model_weights.h"
#include "runtime/program.h"
#include "runtime/schedule.h"

namespace hetmem {
namespace {

constexpr int32_t kIgnoredLabel = -100;

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// The inputs and labels of sequences [first, first + count) of token ids [.., T + 1].
struct MicroBatch {
  std::vector<int32_t> tokens;
  std::vector<int32_t> labels;
};
MicroBatch cut(std::span<const int32_t> ids, int64_t first, int64_t count, int64_t sequence) {
  MicroBatch batch;
  for (int64_t row = first; row < first + count; ++row) {
    const auto window =
        ids.subspan(static_cast<size_t>(row * (sequence + 1)), static_cast<size_t>(sequence + 1));
    batch.tokens.insert(batch.tokens.end(), window.begin(), window.end() - 1);
    batch.labels.insert(batch.labels.end(), window.begin() + 1, window.end());
  }
  return batch;
}

}  // namespace

int64_t resolved_sequence_length(const TrainConfig& config, const ModelConfig& model) {
  if (config.sequence_length == 0) return std::min<int64_t>(1024, model.positions);
  if (config.sequence_length > model.positions) {
    throw Error(ErrorKind::kBadInput, "--sequence-length " +
                                          std::to_string(config.sequence_length) +
                                          " is more than the " + std::to_string(model.positions) +
                                          " positions of the model; give at most that");
  }
  return config.sequence_length;
}

struct Trainer::State {
  State(const TrainConfig& given, int64_t steps);

  void check_ids(std::span<const int32_t> ids) const;
  void make_executor();
  void run_micro_batches(std::span<const int32_t> ids, StepReport& report);
  double gradient_norm();
  void apply_optimizer(double learning_rate, double gradient_scale);
  TierUse use(const Tier& tier) const;
  TensorView moment(int which, size_t weight) const;

  TrainConfig config;
  ModelConfig model;
  int64_t sequence;
  int64_t total_steps;
  int64_t steps_done = 0;
  int64_t optimizer_count = 0;
  int64_t parameters = 0;

  Program program;       // one micro-batch of training
  Program eval_program;  // the forward pass alone
  MemoryPlan memory;
  MemoryPlan eval_memory;
  Tier device;
  Tier host;
  Buffer weights;
  Buffer gradients;
  Buffer moments;
  ParameterViews views;
  std::vector<bool> decays;         // by weight
  std::vector<double> square_sums;  // by weight; written by the stream
  ThreadPool pool;
  CpuStream compute;  // after the pool it uses, before what it runs for
  std::optional<Executor> executor;
  std::optional<Executor> eval_executor;
};

Trainer::State::State(const TrainConfig& given, int64_t steps)
    : config(given),
      model(load_model_config(given.model)),
      sequence(resolved_sequence_length(given, model)),
      total_steps(steps),
      program(compile_training(model, config, sequence)),
      eval_program(compile_evaluation(model, config, sequence)),
      memory(plan_training_memory(program, config)),
      eval_memory(plan_memory(eval_program, 0)),
      device("device", resolve_budgets(config, memory, eval_memory).device),
      host("host", resolve_budgets(config, memory, eval_memory).host),
      pool(static_cast<int>(config.threads)),
      compute("compute", pool) {
  weights = Buffer(device, memory.weights.bytes, MemoryKind::kWeights, MemorySpace::kDevice);
  gradients = Buffer(device, memory.gradients.bytes, MemoryKind::kGradients, MemorySpace::kDevice);
  moments = Buffer(device, memory.moments * memory.optimizer.bytes, MemoryKind::kOptimizer,
                   MemorySpace::kDevice);
  const std::vector<WeightSpec> specs = weight_specs(model);
  HETMEM_ASSERT(specs.size() == program.weights.size());
  for (size_t i = 0; i < program.weights.size(); ++i) {
    const Value& value = program.value(program.weights[i]);
    HETMEM_ASSERT(specs[i].name == value.name);
    views.weights.push_back(weights.view(memory.weights.offsets[i], value.dtype, value.shape));
    const bool own_block = program.gradients[i] != kNoValue && !memory.pooled_gradients;
    views.gradients.push_back(
        own_block ? gradients.view(memory.gradients.offsets[i], value.dtype, value.shape)
                  : TensorView{});
    decays.push_back(specs[i].decays);
    parameters += value.shape.elements();
  }
  square_sums.resize(program.weights.size(), 0.0);
  fill_weights(model, config, specs, views.weights);
  make_executor();
}

void Trainer::State::make_executor() {
  executor.emplace(program, memory, device, compute, views);
  for (size_t i = 0; i < views.gradients.size(); ++i) views.gradients[i] = executor->gradient(i);
}

void Trainer::State::check_ids(std::span<const int32_t> ids) const {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < model.vocabulary) continue;
    throw Error(ErrorKind::kBadInput, "token id " + std::to_string(ids[i]) + " at position " +
                                          std::to_string(i) + " is outside the vocabulary of " +
                                          std::to_string(model.vocabulary) +
                                          "; was the data made with another tokenizer?");
  }
}

void Trainer::State::run_micro_batches(std::span<const int32_t> ids, StepReport& report) {
  const trace::Range range("trainer", "forward and backward");
  report.tokens = config.gradient_accumulation_steps * config.batch_size * sequence;
  executor->clear_loss();
  for (int64_t micro = 0; micro < config.gradient_accumulation_steps; ++micro) {
    const MicroBatch batch = cut(ids, micro * config.batch_size, config.batch_size, sequence);
    OpRuntime runtime;
    runtime.accumulate = micro > 0;
    runtime.loss_scale = 1.0 / static_cast<double>(report.tokens);
    runtime.random_key = random_key_of(config.seed, steps_done, micro);
    executor->run(batch.tokens, batch.labels, runtime);
  }
  report.loss = executor->loss() / static_cast<double>(report.tokens);
}

double Trainer::State::gradient_norm() {
  const trace::Range range("trainer", "gradient norm");
  for (size_t i = 0; i < views.gradients.size(); ++i) {
    if (views.gradients[i]) ops::sum_of_squares(compute, views.gradients[i], &square_sums[i]);
  }
  compute.synchronize();
  double sum = 0;
  for (size_t i = 0; i < views.gradients.size(); ++i) {
    if (views.gradients[i]) sum += square_sums[i];
  }
  return std::sqrt(sum);
}

TensorView Trainer::State::moment(int which, size_t weight) const {
  return moments.view(which * memory.optimizer.bytes + memory.optimizer.offsets[weight],
                      DType::kFloat32, program.value(program.weights[weight]).shape);
}

void Trainer::State::apply_optimizer(double learning_rate, double gradient_scale) {
  const trace::Range range("trainer", "optimizer");
  const auto count = static_cast<double>(optimizer_count + 1);
  ops::AdamWStep adam;
  adam.learning_rate = static_cast<float>(learning_rate);
  adam.beta1 = static_cast<float>(config.adam_beta1);
  adam.beta2 = static_cast<float>(config.adam_beta2);
  adam.epsilon = static_cast<float>(config.adam_epsilon);
  adam.bias_correction1 = static_cast<float>(1.0 - std::pow(config.adam_beta1, count));
  adam.bias_correction2_sqrt =
      static_cast<float>(std::sqrt(1.0 - std::pow(config.adam_beta2, count)));
  adam.gradient_scale = static_cast<float>(gradient_scale);
  ops::SgdStep sgd;
  sgd.learning_rate = adam.learning_rate;
  sgd.momentum = static_cast<float>(config.momentum);
  sgd.gradient_scale = adam.gradient_scale;
  sgd.first = optimizer_count == 0;
  for (size_t i = 0; i < views.weights.size(); ++i) {
    if (!views.gradients[i]) continue;
    const auto decay = static_cast<float>(decays[i] ? config.weight_decay : 0.0);
    if (config.optimizer == OptimizerKind::kAdamW) {
      adam.weight_decay = decay;
      ops::adamw_step(compute, adam, views.weights[i], views.gradients[i], moment(0, i),
                      moment(1, i));
    } else {
      sgd.weight_decay = decay;
      ops::sgd_step(compute, sgd, views.weights[i], views.gradients[i], moment(0, i));
    }
  }
  compute.synchronize();
  ++optimizer_count;
}

TierUse Trainer::State::use(const Tier& tier) const {
  return {tier.budget(), tier.peak(), tier.peak_by_kind()};
}

Trainer::Trainer(const TrainConfig& config, int64_t total_steps)
    : state_(std::make_unique<State>(config, total_steps)) {}
Trainer::~Trainer() = default;
Trainer::Trainer(Trainer&&) noexcept = default;
Trainer& Trainer::operator=(Trainer&&) noexcept = default;

const TrainConfig& Trainer::config() const { return state_->config; }
const ModelConfig& Trainer::model() const { return state_->model; }
int64_t Trainer::sequence_length() const { return state_->sequence; }
int64_t Trainer::parameters() const { return state_->parameters; }
int64_t Trainer::steps_done() const { return state_->steps_done; }
int64_t Trainer::optimizer_count() const { return state_->optimizer_count; }
int64_t Trainer::sequences_per_step() const {
  return state_->config.batch_size * state_->config.gradient_accumulation_steps;
}

StepReport Trainer::step(std::span<const int32_t> tokens) {
  State& s = *state_;
  const auto start = std::chrono::steady_clock::now();
  if (static_cast<int64_t>(tokens.size()) != sequences_per_step() * (s.sequence + 1)) {
    throw Error(ErrorKind::kBadInput, "a step takes " + std::to_string(sequences_per_step()) +
                                          " sequences of " + std::to_string(s.sequence + 1) +
                                          " tokens, got " + std::to_string(tokens.size()) +
                                          " tokens");
  }
  s.check_ids(tokens);
  s.eval_executor.reset();  // its pool is reserved only while it is used
  StepReport report;
  report.step = s.steps_done + 1;
  report.learning_rate =
      s.config.learning_rate * schedule_factor(s.config, s.steps_done, s.total_steps);
  s.run_micro_batches(tokens, report);
  report.grad_norm = s.gradient_norm();
  if (!std::isfinite(report.loss) || !std::isfinite(report.grad_norm)) {
    if (s.config.on_nonfinite == OnNonFinite::kStop) {
      throw Error(ErrorKind::kNonFinite,
                  std::string(std::isfinite(report.loss) ? "the gradient" : "the loss") +
                      " of step " + std::to_string(report.step) +
                      " is not finite; lower --learning-rate, or pass over such steps with "
                      "--on-nonfinite skip");
    }
    report.skipped = true;
  } else {
    // clip_grad_norm_: the coefficient never enlarges a gradient.
    const double limit = s.config.max_grad_norm;
    const double scale = limit > 0 ? std::min(1.0, limit / (report.grad_norm + 1e-6)) : 1.0;
    s.apply_optimizer(report.learning_rate, scale);
  }
  ++s.steps_done;
  report.device = s.use(s.device);
  report.host = s.use(s.host);
  report.seconds = seconds_since(start);
  return report;
}

double Trainer::evaluate(std::span<const int32_t> tokens) {
  State& s = *state_;
  const auto width = static_cast<size_t>(s.sequence + 1);
  if (tokens.empty() || tokens.size() % width != 0) {
    throw Error(ErrorKind::kBadInput, "evaluation takes whole sequences of " +
                                          std::to_string(width) + " tokens, got " +
                                          std::to_string(tokens.size()));
  }
  s.check_ids(tokens);
  // The training pool is not in use between steps: its place is taken, then given back.
  s.executor.reset();
  s.eval_executor.emplace(s.eval_program, s.eval_memory, s.device, s.compute, s.views);
  s.eval_executor->clear_loss();
  const auto sequences = static_cast<int64_t>(tokens.size() / width);
  for (int64_t first = 0; first < sequences; first += s.config.batch_size) {
    const int64_t count = std::min(s.config.batch_size, sequences - first);
    MicroBatch batch = cut(tokens, first, count, s.sequence);
    const auto full = static_cast<size_t>(s.config.batch_size * s.sequence);
    batch.tokens.resize(full, 0);
    batch.labels.resize(full, kIgnoredLabel);
    s.eval_executor->run(batch.tokens, batch.labels, OpRuntime{});
  }
  const double sum = s.eval_executor->loss();
  s.eval_executor.reset();
  s.make_executor();
  return sum / static_cast<double>(sequences * s.sequence);
}

std::vector<StateTensor> Trainer::state() {
  State& s = *state_;
  std::vector<StateTensor> tensors;
  for (size_t i = 0; i < s.views.weights.size(); ++i) {
    StateTensor tensor{s.program.value(s.program.weights[i]).name, s.views.weights[i], {}};
    for (int which = 0; which < s.memory.moments && s.program.gradients[i] != kNoValue; ++which) {
      tensor.moments.push_back(s.moment(which, i));
    }
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

void Trainer::restore_counts(int64_t steps_done, int64_t optimizer_count) {
  state_->steps_done = steps_done;
  state_->optimizer_count = optimizer_count;
}

}  // namespace hetmem
