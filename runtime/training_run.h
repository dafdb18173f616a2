// TrainingRun: the loop around a Trainer: data, evaluation, checkpoints, metrics and the folder
// that a run writes. The caller is told of each step and prints what it likes. Not thread-safe.
#pragma once

#include <atomic>
#include <functional>
#include <string>

#include "runtime/checkpoint_writer.h"
#include "runtime/plan_report.h"
#include "runtime/train_config.h"
#include "runtime/trainer.h"

namespace hetmem {

struct RunProgress {
  int64_t total_steps = 0;
  const StepReport* report = nullptr;  // of a training step, else of an evaluation:
  double eval_loss = 0;
  std::string metrics_line;  // the object that metrics.jsonl got
};

struct RunResult {
  std::string out;
  int64_t steps = 0;
  double last_loss = 0;
  bool interrupted = false;  // a checkpoint was written
  TierUse device;
  TierUse host;
  CheckpointUse checkpoints;  // that were written beside training
  PlanReport plan;            // that the last step ran on
};

// Runs to the end, or until `stop` is set (after the step under way). Throws Error. A folder that
// this call created is removed again where the run fails before its first step.
RunResult run_training(const TrainConfig& config,
                       const std::function<void(const RunProgress&)>& on_progress,
                       const std::atomic<bool>& stop);

}  // namespace hetmem
