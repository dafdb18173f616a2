// TrainingRun: the loop around a Trainer: data, evaluation, checkpoints, metrics and the folder
// that a run writes. The caller is told of each step and prints what it likes. Not thread-safe.
#pragma once

#include <atomic>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "io/token_dataset.h"
#include "runtime/checkpoint.h"
#include "runtime/checkpoint_writer.h"
#include "runtime/output_folder.h"
#include "runtime/plan_report.h"
#include "runtime/train_config.h"
#include "runtime/trainer.h"

namespace hetmem {

struct RunProgress {
  int64_t total_steps = 0;
  int64_t step = 0;                    // steps taken
  const StepReport* report = nullptr;  // of a training step, else of an evaluation:
  double eval_loss = 0;
  std::string metrics_line;  // the object that metrics.jsonl got
};

struct RunResult {
  std::string out;
  int64_t steps = 0;        // in all
  int64_t steps_taken = 0;  // by this call
  double last_loss = 0;
  bool interrupted = false;  // a checkpoint was written
  TierUse device;
  TierUse host;
  TierUse disk;
  CheckpointUse checkpoints;           // that were written beside training
  std::vector<std::string> set_aside;  // what checkpoints of a branch that was left are called now
  PlanReport plan;                     // that the last step ran on
};

// The checkpoint that --resume-from-checkpoint names; empty: none. One that a killed run was about
// to replace is put back first. Throws Error (kBadInput, kStorage).
std::string resume_folder(const TrainConfig& config);

// The mean loss over all windows of the data. `between` as of Trainer::evaluate.
double evaluate_all(Trainer& trainer, const TokenDataset& data,
                    const std::function<void()>& between = {});

// Runs to the end, or until `stop` is set: then the step under way is finished, an evaluation is
// left without a result. Throws Error. A folder that
// this call created is removed again where the run fails before its first step. `on_note` gets what
// the user is to know of the checkpoint that the run goes on from, before its first step.
RunResult run_training(const TrainConfig& config,
                       const std::function<void(const RunProgress&)>& on_progress,
                       const std::function<void(const std::string&)>& on_note,
                       const std::atomic<bool>& stop);

// The same with a Trainer that is there already. `on_progress` may take steps on it: they count as
// steps of the run, but not as further ones, and take none of the data.
struct Continuation {
  bool from_here = false;  // --steps and --epochs are further ones, else those of the whole run
  std::optional<RunMark> wrote;  // what --out holds is this trainer's, else the call is refused
  ResumedFrom resumed;           // where the trainer began, if it did with a checkpoint
  // What it was trained on last, where that is known. The same data go on from there; others begin
  // with the next step, unless they are to end a run that was resumed: those are refused.
  std::optional<DataPosition> data;
  // Called when --out is this run's, before its first step.
  std::function<void(const RunMark&)> on_folder;
  // Called when a step on data is taken, before anything else that may fail.
  std::function<void(const DataPosition&)> on_data;
  std::function<void()> between;  // called between the batches of evaluations; may set `stop`
};
// Whether the run ends with the last of its steps on data, so that others make it longer; else its
// length counts them.
bool ends_with_data(const TrainConfig& config, const Continuation& from);
// Without --out nothing is written.
RunResult run_training(Trainer& trainer, const TrainConfig& config, const Continuation& from,
                       const std::function<void(const RunProgress&)>& on_progress,
                       const std::atomic<bool>& stop);

}  // namespace hetmem
