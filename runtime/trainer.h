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
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "device/tier.h"
#include "io/model_config.h"
#include "runtime/train_config.h"

namespace hetmem {

struct TierUse {
  int64_t budget = 0;
  int64_t peak = 0;
  BytesByKind by_kind{};
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
};

// One named tensor of the training state, in place.
struct StateTensor {
  std::string name;
  TensorView weight;
  std::vector<TensorView> moments;  // empty where frozen
};

class Trainer {
 public:
  // Reads the weights (or makes them, --from-scratch), plans and reserves memory. `total_steps` is
  // the length of the schedule. Throws Error: kBadInput for the model or the configuration,
  // kDoesNotFit with the smallest budget that works.
  Trainer(const TrainConfig& config, int64_t total_steps);
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
  // The mean loss over token ids [sequences, T + 1], any number of sequences; no dropout.
  double evaluate(std::span<const int32_t> tokens);

  // Steps taken (skipped ones count), and Adam's own count.
  int64_t steps_done() const;
  int64_t optimizer_count() const;
  // The training state, for checkpoints; the trainer must be idle.
  std::vector<StateTensor> state();
  void restore_counts(int64_t steps_done, int64_t optimizer_count);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// min(1024, the model's positions) unless given; checked against the model.
int64_t resolved_sequence_length(const TrainConfig& config, const ModelConfig& model);

}  // namespace hetmem
