#include "runtime/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>
#include <utility>

#include "core/byte_size.h"
#include "core/error.h"
#include "core/fault_plan.h"
#include "core/trace.h"
#include "device/device.h"
#include "device/thread_pool.h"
#include "models/models.h"
#include "ops/ops.h"
#include "runtime/norm_history.h"
#include "runtime/program.h"
#include "runtime/run_disk.h"
#include "runtime/schedule.h"
#include "runtime/step_executor.h"

namespace hetmem {
namespace {

constexpr int32_t kIgnoredLabel = -100;
// The first step is run to plan the second; the libraries are slower when they are first called, so
// that the second one's times are those that stay.
constexpr int kWarmUpSteps = 2;

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// The inputs and labels of sequences [first, first + count) of token ids [.., T + 1].
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

// Beside a GPU the pool steps chunks while other threads enqueue what the GPU does next: those have
// processors of their own, which the memory that steps wait for does not miss.
int pool_threads(const TrainConfig& config) {
  const bool cuda = device_of(config).kind == DeviceKind::kCuda;
  if (config.threads > 0 || !cuda || !config.optimizer_overlap) {
    return static_cast<int>(config.threads);
  }
  constexpr int kEnqueueing = 2;
  return std::max(1, available_processors() - kEnqueueing);
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
  State(const TrainConfig& given, int64_t steps, const OnTiers& on_tiers);

  void check_ids(std::span<const int32_t> ids) const;
  void adopt(RunPlan next);
  void settle();
  void reserve();
  void plan_again();
  std::vector<MicroBatch> micro_batches(std::span<const int32_t> ids) const;
  void forward_and_backward(std::span<const int32_t> ids, StepReport& report,
                            const PieceStep& early);
  void apply_optimizer(double learning_rate, double gradient_scale);
  PieceStep optimizer_step(double learning_rate, double gradient_scale) const;
  void watch_drift(double seconds);
  void finish();
  TierUse use(const Tier& tier) const;
  Traffic moved() const;
  std::unique_ptr<DiskTier> make_disk();

  TrainConfig config;
  ModelConfig model;
  int64_t sequence;
  int64_t total_steps;
  int64_t steps_done = 0;
  int64_t optimizer_count = 0;
  int64_t parameters = 0;

  ThreadPool pool;
  std::unique_ptr<Device> where;  // after the pool it uses, before all that is on it
  RunPrograms programs;
  MachineRates rates;
  TierBudgets budgets;
  NormHistory norms;
  bool early_planned;  // whether the plan may have steps before the norm is known
  RunPlan plan;
  MeasuredTimes times;
  int to_measure = kWarmUpSteps;  // so many next steps are measured, then planned again
  std::vector<double> recent;     // seconds of steps since the plan was made
  std::vector<bool> decays;       // by weight
  Tier device;
  Tier host;
  std::unique_ptr<Stream> compute;  // streams come before what they run for
  CpuStream host_work;
  TransferEngine transfers;
  std::unique_ptr<DiskTier> disk;  // null: there is none
  ChunkManager chunks;
  std::optional<PageTransfers> pages;
  Reservation passing;  // what the chunks and their snapshots use beside a disk
  Buffer working;       // the pool of the plan
  std::optional<StepExecutor> executor;
  std::optional<StepExecutor> evaluation;
};

Trainer::State::State(const TrainConfig& given, int64_t steps, const OnTiers& on_tiers)
    : config(given),
      model(load_model_config(given.model)),
      sequence(resolved_sequence_length(given, model)),
      total_steps(steps),
      pool(pool_threads(config)),
      where(make_device(device_of(config), pool)),
      programs(model, config, sequence),
      rates(load_rates(config.machine, where->id())),
      budgets(budgets_of(config)),
      norms(config.max_grad_norm),
      early_planned(norms.worth_planning()),
      plan(plan_run(programs, config, rates, budgets, nullptr, early_planned)),
      device("device", budgets.device, where->memory()),
      host("host", budgets.host, where->host_memory()),
      compute(where->make_stream("compute")),
      host_work("host", pool, MemorySpace::kHost),
      transfers(*where),
      disk(make_disk()),
      chunks(programs.layout, moments_of(config.optimizer), device, host, transfers, disk.get()) {
  if (on_tiers) on_tiers(device, host);
  if (disk) {
    pages.emplace(chunks, host);
    passing = host.reserve(ChunkManager::staging_bytes(), MemoryKind::kStaging);
  }
  const std::vector<WeightSpec> specs = weight_specs(model);
  HETMEM_ASSERT(specs.size() == programs.training.weights.size());
  for (size_t i = 0; i < specs.size(); ++i) {
    const Value& value = programs.training.value(programs.training.weights[i]);
    HETMEM_ASSERT(specs[i].name == value.name);
    decays.push_back(specs[i].decays);
    parameters += value.shape.elements();
  }
  settle();
  fill_weights(model, config, specs, [&](size_t index, const FloatSource& source) {
    chunks.write(ChunkList::kWeights, static_cast<int>(index), source);
  });
}

// The last thing that can be refused before memory is reserved. What it measures serves the plans
// after the warm-up.
std::unique_ptr<DiskTier> Trainer::State::make_disk() {
  if (!plan.fits()) refuse(plan, budgets);
  const int64_t bytes = disk_file_bytes(budgets, programs.layout, moments_of(config.optimizer));
  std::unique_ptr<DiskTier> made = open_disk(config, budgets, bytes, host);
  if (made && config.machine.empty() && measure_disk(*made, host, rates.copies)) {
    rates.disk_source = "measured";
  }
  return made;
}

// The pool serves training and, between steps, evaluation.
void Trainer::State::reserve() {
  const Plan& training = plan.training.plan;
  BytesByKind bytes = training.pool_by_kind;
  bytes[static_cast<size_t>(MemoryKind::kActivationsTemporary)] +=
      std::max<int64_t>(0, plan.evaluation.plan.pool_bytes - training.pool_bytes);
  working = Buffer(device, bytes, MemorySpace::kDevice);
  working.populate();
  const Lanes lanes{*compute, host_work, transfers, pages ? &*pages : nullptr};
  executor.emplace(programs.training, plan.training.trace, training, chunks, working, device,
                   lanes);
  evaluation.emplace(programs.evaluation, plan.evaluation.trace, plan.evaluation.plan, chunks,
                     working, device, lanes);
}

// Takes another plan. Where memory for it is refused, the plan of before is settled again when the
// next step begins.
void Trainer::State::adopt(RunPlan next) {
  executor.reset();
  evaluation.reset();
  working = Buffer();
  RunPlan before = std::exchange(plan, std::move(next));
  recent.clear();
  try {
    settle();
  } catch (...) {
    plan = std::move(before);
    throw;
  }
}

// Moves chunks to where the plan has them, one at a time, and reserves what it works in.
void Trainer::State::settle() {
  device.set_budget(std::max(budgets.device, device.used()));
  host.set_budget(std::max(budgets.host, host.used()));
  const Plan& training = plan.training.plan;
  chunks.place(training.resident, training.places, training.early);
  device.set_budget(budgets.device);
  host.set_budget(budgets.host);
  try {
    reserve();
  } catch (...) {
    executor.reset();
    evaluation.reset();
    working = Buffer();
    throw;
  }
}

void Trainer::State::plan_again() {
  --to_measure;
  times.take(plan.training.trace, executor->op_seconds(), executor->update_seconds(),
             plan.training.plan.resident);
  early_planned = norms.worth_planning();
  RunPlan next =
      plan_run(programs, config, rates, budgets, &times, early_planned, plan.smallest_device);
  HETMEM_ASSERT(next.fits());
  if (same_actions(plan.training.plan, next.training.plan) &&
      same_actions(plan.evaluation.plan, next.evaluation.plan)) {
    plan = std::move(next);  // with better predictions; what runs it stays
    recent.clear();
    return;
  }
  try {
    adopt(std::move(next));
  } catch (const Error& error) {
    // The step is taken and its report stands: the plan of before serves on, from the next step.
    if (error.kind() != ErrorKind::kDoesNotFit) throw;
  }
}

// A plan whose time is off by more than this is made again, with fresh times; so is one for other
// norms.
void Trainer::State::watch_drift(double seconds) {
  constexpr double kDrift = 0.1;
  constexpr size_t kSteps = 8;
  recent.push_back(seconds);
  if (recent.size() < kSteps) return;
  std::vector<double> sorted = std::exchange(recent, {});
  std::sort(sorted.begin(), sorted.end());
  const double predicted = plan.training.plan.step_seconds;
  const bool off = std::abs(sorted[kSteps / 2] - predicted) > kDrift * predicted;
  to_measure = off || norms.worth_planning() != early_planned ? 1 : 0;
}

// Before the state is looked at or changed: steps of the host may be under way.
void Trainer::State::finish() {
  if (executor) executor->finish();
  if (pages) pages->check();  // what was lost stays lost
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

std::vector<MicroBatch> Trainer::State::micro_batches(std::span<const int32_t> ids) const {
  std::vector<MicroBatch> batches;
  for (int64_t micro = 0; micro < config.gradient_accumulation_steps; ++micro) {
    batches.push_back(cut(ids, micro * config.batch_size, config.batch_size, sequence));
  }
  return batches;
}

void Trainer::State::forward_and_backward(std::span<const int32_t> ids, StepReport& report,
                                          const PieceStep& early) {
  const trace::Range range("trainer", "forward and backward");
  report.tokens = config.gradient_accumulation_steps * config.batch_size * sequence;
  const auto tokens = static_cast<double>(report.tokens);
  executor->run(
      micro_batches(ids), 1.0 / tokens,
      [this](int64_t micro) { return random_key_of(config.seed, steps_done, micro); },
      to_measure > 0, early);
  report.loss = executor->loss() / tokens;
  report.grad_norm = executor->gradient_norm();
}

PieceStep Trainer::State::optimizer_step(double learning_rate, double gradient_scale) const {
  const auto count = static_cast<double>(optimizer_count + 1);
  const auto decay = [this](const PieceState& piece) {
    return static_cast<float>(decays[static_cast<size_t>(piece.tensor)] ? config.weight_decay
                                                                        : 0.0);
  };
  if (config.optimizer == OptimizerKind::kSgd) {
    ops::SgdStep sgd;
    sgd.learning_rate = static_cast<float>(learning_rate);
    sgd.momentum = static_cast<float>(config.momentum);
    sgd.gradient_scale = static_cast<float>(gradient_scale);
    sgd.first = optimizer_count == 0;
    return [sgd, decay](Stream& stream, const PieceState& piece) {
      ops::SgdStep step = sgd;
      step.weight_decay = decay(piece);
      ops::sgd_step(stream, step, piece.weight, piece.gradient, piece.first_moment, piece.low);
    };
  }
  ops::AdamWStep adam;
  adam.learning_rate = static_cast<float>(learning_rate);
  adam.beta1 = static_cast<float>(config.adam_beta1);
  adam.beta2 = static_cast<float>(config.adam_beta2);
  adam.epsilon = static_cast<float>(config.adam_epsilon);
  adam.bias_correction1 = static_cast<float>(1.0 - std::pow(config.adam_beta1, count));
  adam.bias_correction2_sqrt =
      static_cast<float>(std::sqrt(1.0 - std::pow(config.adam_beta2, count)));
  adam.gradient_scale = static_cast<float>(gradient_scale);
  const bool in_8_bits = config.optimizer == OptimizerKind::kAdamW8Bit;
  return [adam, decay, in_8_bits](Stream& stream, const PieceState& piece) {
    ops::AdamWStep step = adam;
    step.weight_decay = decay(piece);
    const auto& take = in_8_bits ? ops::adamw_8bit_step : ops::adamw_step;
    take(stream, step, piece.weight, piece.gradient, piece.first_moment, piece.second_moment,
         piece.low);
  };
}

void Trainer::State::apply_optimizer(double learning_rate, double gradient_scale) {
  const trace::Range range("trainer", "optimizer");
  // A step that was taken as if nothing were clipped stands where nothing is.
  const bool early_stands = gradient_scale == 1.0;
  executor->update(optimizer_step(learning_rate, gradient_scale), to_measure > 0, early_stands);
  norms.add(gradient_scale);
  ++optimizer_count;
}

TierUse Trainer::State::use(const Tier& tier) const {
  return {tier.budget(), tier.peak(), tier.peak_by_kind(), tier.touched_bytes()};
}

// Inputs go on the lane of compute.
Traffic Trainer::State::moved() const {
  return {transfers.bytes_to_device() + compute->copied_bytes(CopyDirection::kToDevice),
          transfers.bytes_to_host(), pages ? pages->read_bytes() : 0,
          pages ? pages->written_bytes() : 0};
}

Trainer::Trainer(const TrainConfig& config, int64_t total_steps, const OnTiers& on_tiers)
    : state_(std::make_unique<State>(config, total_steps, on_tiers)) {}
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
  kill_point(FaultSite::kStepBegin);
  if (!s.executor) s.settle();
  s.device.reset_peak();
  s.host.reset_peak();
  if (s.disk) s.disk->tier().reset_peak();
  const Traffic before = s.moved();
  const double waited = s.compute->waited_seconds();
  const bool measured = s.to_measure > 0;
  const bool beside_writer = s.chunks.being_read();
  StepReport report;
  report.step = s.steps_done + 1;
  report.learning_rate =
      s.config.learning_rate * schedule_factor(s.config, s.steps_done, s.total_steps);
  // Measured steps run by themselves.
  const bool early = s.early_planned && !measured && s.norms.worth_trying();
  s.forward_and_backward(tokens, report,
                         early ? s.optimizer_step(report.learning_rate, 1.0) : PieceStep{});
  kill_point(FaultSite::kStepBackward);
  if (!std::isfinite(report.loss) || !std::isfinite(report.grad_norm)) {
    if (s.config.on_nonfinite == OnNonFinite::kStop) {
      s.executor->forget_pool();
      throw Error(ErrorKind::kNonFinite,
                  std::string(std::isfinite(report.loss) ? "the gradient" : "the loss") +
                      " of step " + std::to_string(report.step) +
                      " is not finite; lower --learning-rate, or pass over such steps with "
                      "--on-nonfinite skip");
    }
    report.skipped = true;
    s.executor->update({});
  } else {
    // clip_grad_norm_: the coefficient never enlarges a gradient.
    const double limit = s.config.max_grad_norm;
    const double scale = limit > 0 ? std::min(1.0, limit / (report.grad_norm + 1e-6)) : 1.0;
    s.apply_optimizer(report.learning_rate, scale);
  }
  ++s.steps_done;
  kill_point(FaultSite::kStepDone);
  report.device = s.use(s.device);
  report.host = s.use(s.host);
  if (s.disk) {
    report.disk = s.use(s.disk->tier());
    report.disk.budget = s.budgets.disk;
  }
  const Traffic after = s.moved();
  report.traffic = {after.to_device - before.to_device, after.to_host - before.to_host,
                    after.disk_read - before.disk_read, after.disk_write - before.disk_write};
  report.exposed_copy_seconds = s.compute->waited_seconds() - waited;
  report.seconds = seconds_since(start);
  report.fraction_of_bound = s.plan.training.plan.lower_bound_seconds / report.seconds;
  if (measured && !report.skipped) {
    s.plan_again();
  } else if (!measured && !beside_writer) {  // which takes time that no plan reckons with
    s.watch_drift(report.seconds);
  }
  return report;
}

double Trainer::evaluate(std::span<const int32_t> tokens, const std::function<void()>& between) {
  State& s = *state_;
  const auto width = static_cast<size_t>(s.sequence + 1);
  if (tokens.empty() || tokens.size() % width != 0) {
    throw Error(ErrorKind::kBadInput, "an evaluation takes sequences of " + std::to_string(width) +
                                          " tokens, got " + std::to_string(tokens.size()) +
                                          " tokens");
  }
  s.check_ids(tokens);
  if (!s.executor) s.settle();
  s.finish();
  s.executor->forget_pool();
  const auto sequences = static_cast<int64_t>(tokens.size() / width);
  double sum = 0;
  for (int64_t first = 0; first < sequences; first += s.config.batch_size) {
    const int64_t count = std::min(s.config.batch_size, sequences - first);
    MicroBatch batch = cut(tokens, first, count, s.sequence);
    const auto full = static_cast<size_t>(s.config.batch_size * s.sequence);
    batch.tokens.resize(full, 0);
    batch.labels.resize(full, kIgnoredLabel);
    s.evaluation->forget_pool();
    s.evaluation->run(std::span(&batch, 1), 1.0, [](int64_t) { return uint64_t{0}; });
    sum += s.evaluation->loss();
    if (between) between();
  }
  return sum / static_cast<double>(sequences * s.sequence);
}

std::vector<StateTensor> Trainer::state() const {
  const Program& program = state_->programs.training;
  std::vector<StateTensor> tensors;
  for (size_t i = 0; i < program.weights.size(); ++i) {
    const Value& value = program.value(program.weights[i]);
    const bool trained = program.gradients[i] != kNoValue;
    tensors.push_back({value.name, value.shape, trained ? state_->chunks.moments().count : 0});
  }
  return tensors;
}

void Trainer::read(ChunkList list, size_t tensor, const FloatSink& sink) {
  state_->finish();
  state_->chunks.read(list, static_cast<int>(tensor), sink);
}

std::unique_ptr<ChunkSnapshot> Trainer::snapshot() {
  state_->finish();
  return std::make_unique<ChunkSnapshot>(state_->chunks, state_->transfers);
}

void Trainer::write(ChunkList list, size_t tensor, const FloatSource& source) {
  state_->finish();
  if (state_->executor) state_->executor->forget_pool();
  state_->chunks.write(list, static_cast<int>(tensor), source);
}

void Trainer::set_budget(int64_t device_memory, int64_t host_memory) {
  State& s = *state_;
  TrainConfig changed = s.config;
  changed.device_memory = device_memory;
  changed.host_memory = host_memory;
  TrainConfig asked = changed;
  if (s.disk) asked.disk_memory = s.budgets.disk;  // its space is taken
  const TierBudgets budgets = budgets_of(asked, {}, {s.device.used(), s.host.used()});
  RunPlan next = plan_run(s.programs, changed, s.rates, budgets,
                          s.times.empty() ? nullptr : &s.times, s.norms.worth_planning());
  if (!next.fits()) refuse(next, budgets);
  s.finish();
  const TierBudgets before = std::exchange(s.budgets, budgets);
  try {
    s.adopt(std::move(next));
    s.early_planned = s.norms.worth_planning();
  } catch (...) {
    s.budgets = before;
    throw;
  }
  s.config = changed;
}

const RunPlan& Trainer::plan() const { return state_->plan; }
PlanReport Trainer::plan_report() const {
  return report_of(state_->plan, state_->programs, state_->config, state_->sequence, state_->rates);
}
const Program& Trainer::program() const { return state_->programs.training; }
const AccessTrace& Trainer::access_trace() const { return state_->plan.training.trace.access; }

void Trainer::restore_counts(int64_t steps_done, int64_t optimizer_count) {
  state_->steps_done = steps_done;
  state_->optimizer_count = optimizer_count;
}

int64_t Trainer::total_steps() const { return state_->total_steps; }
void Trainer::set_total_steps(int64_t total_steps) { state_->total_steps = total_steps; }

}  // namespace hetmem
