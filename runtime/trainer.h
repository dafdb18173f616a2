// Trainer: a model, its optimizer and their memory; one call is one optimizer step. Not
// thread-safe: one thread at a time.
//
//   Trainer trainer(config, total_steps);
//   StepReport report = trainer.step(tokens);      // [accumulation * batch, T + 1] token ids
//   trainer.save_model("out");
//
// Losses and weights depend on the model, the data and the configuration alone: neither on threads
// nor on budgets.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "chunk_manager/chunk_manager.h"
#include "chunk_manager/chunk_snapshot.h"
#include "io/model_config.h"
#include "runtime/model_weights.h"
#include "runtime/plan_report.h"
#include "runtime/step_plan.h"
#include "runtime/train_config.h"

namespace hetmem {

// A tier during a step: what was reserved at most, and what of it was really touched.
struct TierUse {
  int64_t budget = 0;
  int64_t peak = 0;
  BytesByKind by_kind{};
  int64_t touched = 0;
};

struct StepReport {
  int64_t step = 0;  // from 1
  double loss = 0;   // mean over the label tokens of the whole batch
  double grad_norm = 0;
  double learning_rate = 0;
  int64_t tokens = 0;
  double seconds = 0;
  bool skipped = false;  // loss or gradient was not finite, and --on-nonfinite is skip
  TierUse device;
  TierUse host;
  TierUse disk;
  // Bytes that the copies of this step have moved. The first step on a plan, and one after an
  // evaluation, also brings what a step leaves in place for the next. Of the disk: what was asked
  // of it.
  Traffic traffic;
  double exposed_copy_seconds = 0;  // compute stood still for a copy
  double fraction_of_bound = 0;     // the plan's lower bound over the seconds
};

// One named tensor of the training state.
struct StateTensor {
  std::string name;
  Shape shape;
  int moments = 0;  // 0 where frozen
};

class Trainer {
 public:
  // Reads the weights (or makes them, --from-scratch), plans and reserves memory. `total_steps` is
  // the length of the schedule (kNoEnd where it is not known yet). Throws Error: kBadInput for the
  // model or the configuration, kDoesNotFit with the smallest budget that works. Tests may give a
  // function that is shown the tiers before anything is reserved in them; they live as long as the
  // Trainer.
  using OnTiers = std::function<void(Tier& device, Tier& host)>;
  Trainer(const TrainConfig& config, int64_t total_steps, const OnTiers& on_tiers = {});
  ~Trainer();
  Trainer(Trainer&&) noexcept;
  Trainer& operator=(Trainer&&) noexcept;

  const TrainConfig& config() const;
  const ModelConfig& model() const;
  // Sequences of a step: batch x accumulation, each of sequence_length() + 1 tokens.
  int64_t sequences_per_step() const;
  int64_t sequence_length() const;
  int64_t parameters() const;

  // One optimizer step over token ids [sequences_per_step, T + 1]. Throws Error: kBadInput for ids
  // outside the vocabulary, kNonFinite where loss or gradient is not finite (weights, moments and
  // Adam's own count are then as before the step).
  StepReport step(std::span<const int32_t> tokens);
  // The mean loss over token ids [sequences, T + 1], any number of sequences; no dropout. `between`
  // is called after each batch; what it throws ends the evaluation, nothing else.
  double evaluate(std::span<const int32_t> tokens, const std::function<void()>& between = {});

  // Steps taken (skipped ones count), and Adam's own count.
  int64_t steps_done() const;
  int64_t optimizer_count() const;
  // The training state, for checkpoints, in the order of the model: tensors are read and written in
  // pieces, in whatever tier they are.
  std::vector<StateTensor> state() const;
  void read(ChunkList list, size_t tensor, const FloatSink& sink);
  void write(ChunkList list, size_t tensor, const FloatSource& source);
  // The state as it is now, to be read by another thread while the next steps are taken. One at a
  // time; it must not outlive the Trainer.
  std::unique_ptr<ChunkSnapshot> snapshot();
  void restore_counts(int64_t steps_done, int64_t optimizer_count);
  // The length of the schedule, from the next step on.
  int64_t total_steps() const;
  void set_total_steps(int64_t total_steps);

  // From the next step on, plans for other budgets (kAutoBytes: what is free now; that of the disk
  // stays); losses and weights stay the same, bit for bit. Throws Error (kDoesNotFit) with the
  // smallest device budget that works; all is then as before.
  void set_budget(int64_t device_memory, int64_t host_memory);
  // The plan that the next step runs on, and that of evaluation.
  const RunPlan& plan() const;
  PlanReport plan_report() const;
  // Of a training step.
  const Program& program() const;
  // What the planner knows of a step: with measured times after the warm-up.
  const AccessTrace& access_trace() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// min(1024, the model's positions) unless given; checked against the model.
int64_t resolved_sequence_length(const TrainConfig& config, const ModelConfig& model);

}  // namespace hetmem
