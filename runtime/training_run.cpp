#include "runtime/training_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <exception>
#include <filesystem>
#include <sstream>

#include "core/error.h"
#include "core/fault_plan.h"
#include "core/trace.h"
#include "io/file.h"
#include "io/json.h"
#include "io/token_dataset.h"
#include "runtime/checkpoint.h"
#include "runtime/checkpoint_writer.h"
#include "runtime/machine.h"
#include "runtime/output_folder.h"
#include "runtime/plan_report.h"
#include "runtime/prepared_data.h"
#include "runtime/report_writer.h"
#include "runtime/tensorboard_log.h"
#include "runtime/trace_file.h"

namespace hetmem {
namespace {

namespace fs = std::filesystem;

Json number_or_null(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

Json tier_json(const TierUse& use) { return {{"peak", use.peak}, {"budget", use.budget}}; }

std::string metrics_line(const StepReport& report) {
  Json line;
  line["step"] = report.step;
  line["loss"] = report.skipped ? Json(nullptr) : number_or_null(report.loss);
  line["grad_norm"] = number_or_null(report.grad_norm);
  line["learning_rate"] = report.learning_rate;
  line["tokens"] = report.tokens;
  line["seconds"] = report.seconds;
  line["tokens_per_second"] = static_cast<double>(report.tokens) / report.seconds;
  line["memory"] = {{"device", tier_json(report.device)},
                    {"host", tier_json(report.host)},
                    {"disk", tier_json(report.disk)}};
  line["traffic"] = {{"to_device", report.traffic.to_device},
                     {"to_host", report.traffic.to_host},
                     {"disk_read", report.traffic.disk_read},
                     {"disk_write", report.traffic.disk_write}};
  line["exposed_copy_seconds"] = report.exposed_copy_seconds;
  line["fraction_of_bound"] = report.fraction_of_bound;
  if (report.skipped) line["skipped"] = true;
  return line.dump();
}

// A trace that cannot be written is found before the run, not after it.
void check_trace(const std::string& path) {
  if (path.empty()) return;
  std::error_code code;
  if (fs::is_directory(path, code)) {
    throw Error(ErrorKind::kBadInput, "--trace " + path + " is a folder; give a file");
  }
  require_writable(fs::path(absolute_path(path)).parent_path().string(), "--trace " + path);
}

// The step up to which checkpoints in `out` are of the branch that goes on from `from`, or -1: of a
// folder that is none of them it is not known.
int64_t branch_point(const ResumedFrom& from, const std::string& out) {
  std::error_code code;
  const std::string checkpoint = checkpoint_path(out, from.step);
  return !from.folder.empty() && fs::equivalent(from.folder, checkpoint, code) ? from.step : -1;
}

// Lines of metrics.jsonl after `step` are dropped: the run goes on from there.
void trim_metrics(const std::string& path, int64_t step) {
  std::error_code code;
  if (!fs::exists(path, code)) return;
  std::istringstream lines(read_text_file(path));
  std::string kept;
  std::string line;
  while (std::getline(lines, line)) {
    const Json json = Json::parse(line, nullptr, false);
    if (json.is_object() && json.contains("step") && json["step"].is_number_integer() &&
        json["step"].get<int64_t>() <= step) {
      kept += line + "\n";
    }
  }
  write_text_file(path, kept);
}

std::vector<int32_t> read_windows(const TokenDataset& data, const WindowSampler& sampler,
                                  int64_t step, int64_t count, int64_t sequence) {
  const auto width = static_cast<size_t>(sequence + 1);
  std::vector<int32_t> tokens(static_cast<size_t>(count) * width);
  for (int64_t i = 0; i < count; ++i) {
    data.read_window(sampler.window(step, i),
                     std::span(tokens).subspan(static_cast<size_t>(i) * width, width));
  }
  return tokens;
}

// However the run ends: what follows it in the process is not traced.
struct Tracing {
  Tracing() { trace::start(); }
  ~Tracing() { trace::stop(); }
  Tracing(const Tracing&) = delete;
  Tracing& operator=(const Tracing&) = delete;
};

// Thrown between the batches of an evaluation that is left.
struct EvaluationLeft {};

class Loop {
 public:
  Loop(const TrainConfig& config, const std::function<void(const RunProgress&)>& on_progress,
       const std::atomic<bool>& stop)
      : config_(config),
        lock_(config.out.empty() ? OutputLock() : OutputLock(config.out)),
        on_progress_(on_progress),
        stop_(stop),
        model_(load_model_config(config.model)),
        sequence_(resolved_sequence_length(config, model_)),
        data_(open_data(config.data, "--data", &position_.identity)),
        sampler_(data_.windows(), config.batch_size * config.gradient_accumulation_steps,
                 config.shuffle, config.seed) {
    if (!config.eval_data.empty()) {
      eval_data_.emplace(open_data(config.eval_data, "--eval-data", nullptr));
    }
    total_steps_ = config.steps.value_or(steps_of_epochs());
  }

  RunResult run(const std::function<void(const std::string&)>& on_note) {
    const std::string resume = resume_folder(config_);
    check_trace(config_.trace);
    // A run that goes on in another folder may not write over what is there either.
    OutputFolder folder(config_, !resume.empty() && is_inside(resume, config_.out), lock_);
    if (config_.machine.empty()) keep_rates(device_of(config_));
    start_trace();
    Trainer trainer(config_, total_steps_);
    ResumedFrom resumed;
    if (!resume.empty()) resumed = load_checkpoint(trainer, resume, &position_.identity);
    for (const std::string& note : resumed.notes) on_note(note);
    if (resumed.data) position_.first = resumed.data->first;
    total_steps_ = end_of_run(resumed);
    if (resumed.step > 0 && resumed.step >= total_steps_) {
      on_note(
          fmt::format("no step is taken: the checkpoint is of step {}, the run has {}; give "
                      "more --steps to go on",
                      resumed.step, total_steps_));
    }
    newest_kept_ = branch_point(resumed, folder.path());
    return drive(trainer, &folder);
  }

  RunResult go_on(Trainer& trainer, const Continuation& from) {
    between_ = from.between;
    on_data_ = from.on_data;
    check_trace(config_.trace);
    position_.first = first_step(trainer, from);
    ends_with_data_ = ends_with_data(config_, from);
    total_steps_ = from.from_here ? trainer.steps_done() + config_.steps.value_or(steps_of_epochs())
                                  : end_of_run(from.resumed);
    if (trainer.steps_done() >= total_steps_) {
      throw Error(ErrorKind::kBadInput, "all " + std::to_string(total_steps_) +
                                            " steps are taken already; give more --steps");
    }
    start_trace();
    if (config_.out.empty()) return drive(trainer, nullptr);
    const std::string& resumed = from.resumed.folder;
    if (from.wrote) require_run(config_.out, *from.wrote);
    OutputFolder folder(config_,
                        from.wrote || (!resumed.empty() && is_inside(resumed, config_.out)), lock_);
    newest_kept_ = from.wrote ? trainer.steps_done() : branch_point(from.resumed, folder.path());
    on_folder_ = from.on_folder;
    return drive(trainer, &folder);
  }

 private:
  int64_t steps_of_epochs() const {
    return std::max<int64_t>(1, std::llround(config_.epochs.value_or(1.0) *
                                             static_cast<double>(sampler_.steps_per_epoch())));
  }

  // A run that was resumed and is told nothing else ends where it would have ended.
  int64_t end_of_run(const ResumedFrom& resumed) const {
    if (config_.steps) return *config_.steps;
    if (!config_.epochs && resumed.total_steps) return *resumed.total_steps;
    return position_.first + steps_of_epochs();
  }

  // The step with which the data begin, for a trainer that may have been trained before.
  int64_t first_step(const Trainer& trainer, const Continuation& from) const {
    if (from.data && from.data->identity == position_.identity) return from.data->first;
    if (from.from_here) return trainer.steps_done();
    require_same_data(from.resumed, position_.identity);
    return from.data ? trainer.steps_done() : 0;
  }

  void start_trace() {
    if (!config_.trace.empty()) tracing_.emplace();
  }

  // `folder`: where the run writes; null: it writes nothing.
  RunResult drive(Trainer& trainer, OutputFolder* folder) {
    std::optional<CheckpointWriter> checkpoints;
    if (folder != nullptr) {
      out_ = folder->path();
      begin_writing(trainer, *folder);
      checkpoints.emplace(trainer, folder->path(), config_.save_total_limit);
    }
    trainer.set_total_steps(total_steps_);
    RunResult result;
    if (folder != nullptr) result.out = folder->name();
    result.set_aside = set_aside_;
    report_.emplace(config_, trainer, out_);
    try {
      take_steps(trainer, folder, checkpoints, result);
    } catch (const Error& error) {
      report_error(trainer, error);
      throw;
    }
    report_->write_page(trainer,
                        result.interrupted ? "stopped by a signal, with a checkpoint" : "finished");
    if (!config_.trace.empty()) report_->write_trace(trainer);
    return result;
  }

  void take_steps(Trainer& trainer, OutputFolder* folder,
                  std::optional<CheckpointWriter>& checkpoints, RunResult& result) {
    while (trainer.steps_done() < total_steps_ && !stop_ && !checkpoint_error_) {
      const int64_t before = trainer.steps_done();
      const StepReport report = take_step(trainer, folder);
      ++result.steps_taken;
      result.last_loss = report.loss;
      result.device = report.device;
      result.host = report.host;
      result.disk = report.disk;
      after_step(trainer, before, checkpoints);
    }
    if (checkpoints) hold_error([&] { checkpoints->finish(); });
    if (folder != nullptr) folder->keep();
    result.plan = trainer.plan_report();
    result.interrupted = trainer.steps_done() < total_steps_;
    if (!result.interrupted && eval_data_ && !evaluated_last_) evaluate(trainer);
    result.steps = trainer.steps_done();
    const bool ends_here = !result.interrupted || stop_;  // else an error has ended it
    if (checkpoints && ends_here) hold_error([&] { end_writing(trainer, *checkpoints, result); });
    if (checkpoint_error_) std::rethrow_exception(checkpoint_error_);
  }

  // The steps that were taken are reported even so; what fails now is not what the user is told.
  void report_error(const Trainer& trainer, const Error& error) {
    try {
      report_->write_page(trainer, std::string("ended by an error: ") + error.what(), true);
      if (!config_.trace.empty()) report_->write_trace(trainer);
    } catch (const Error&) {  // the first one is on its way
    }
  }

  void begin_writing(Trainer& trainer, OutputFolder& folder) {
    folder.remove_old_run();
    AtomicDirectory::remove_abandoned(folder.path());
    // Some are not written again: a run that goes on at its last step measures no access trace.
    folder.remove_unfinished_files();
    // Before anything of this branch is there: what is found from now on is of one branch.
    set_aside_ = set_aside_checkpoints(folder.path(), newest_kept_);
    const std::string metrics_path = folder.path() + "/metrics.jsonl";
    if (config_.tensorboard) tensorboard_.emplace(folder.path(), trainer.steps_done());
    trim_metrics(metrics_path, trainer.steps_done());
    metrics_.emplace(File::open_for_appending(metrics_path));
    metrics_end_ = metrics_->size();
    write_text_file(folder.path() + "/config.yaml", to_yaml(config_));
    if (on_folder_) on_folder_(mark_of_run(folder.path()));
    write_plan(trainer, folder.path());
    op_seconds_ = trainer.access_trace().op_seconds;
  }

  // A checkpoint, or a page beside it, that fails ends the run after the step under way, but not
  // before what the end of the run writes: the first error is thrown when that is done.
  template <typename Action>
  void hold_error(const Action& action) {
    try {
      action();
    } catch (const Error&) {
      if (!checkpoint_error_) checkpoint_error_ = std::current_exception();
    }
  }

  void end_writing(Trainer& trainer, const CheckpointWriter& checkpoints, RunResult& result) {
    result.checkpoints = checkpoints.use();
    try {
      if (!result.interrupted) {
        save_model(trainer, out_ + "/final");
      } else if (checkpoints.newest() != trainer.steps_done()) {
        save_checkpoint(trainer, checkpoint_path(out_, trainer.steps_done()), &position_);
        prune_checkpoints(out_, config_.save_total_limit, trainer.steps_done());
      }
    } catch (const Error& error) {
      throw Error(error.kind(), std::string(error.what()) + "; " + last_complete(out_));
    }
  }

  TokenDataset open_data(const std::vector<std::string>& paths, const std::string& flag,
                         DataIdentity* identity) const {
    if (paths.empty()) throw Error(ErrorKind::kBadInput, flag + " is required");
    // What takes a few seconds to look at; ids beyond it are checked as they are read.
    constexpr int64_t kMostChecked = int64_t{1} << 30;
    const PreparedData prepared(paths, config_.data_glob, flag, config_.model, model_);
    try {
      TokenDataset data(prepared.token_files(), sequence_, model_.vocabulary);
      const DataIdentity found = data.check_ids(kMostChecked);
      if (identity != nullptr) *identity = found;
      return data;
    } catch (const Error& error) {  // the token files of text are not known to the user
      throw Error(error.kind(), flag + ": " + error.what());
    }
  }

  static void write_plan(const Trainer& trainer, const std::string& out) {
    write_text_file(out + "/plan.json", to_json(trainer.plan_report()) + "\n");
  }

  // After the warm-up, and whenever a step was measured again: the times, and the plan that was
  // made from them.
  void write_new_plan(const Trainer& trainer, const std::string& out) {
    if (trainer.access_trace().op_seconds == op_seconds_) return;
    op_seconds_ = trainer.access_trace().op_seconds;
    const TraceRecord record =
        record_trace(trainer.plan(), trainer.program(), trainer.plan_report());
    write_text_file(out + "/access_trace.json", to_json(record) + "\n");
    write_plan(trainer, out);
  }

  void write_metrics(const std::string& line) {
    if (!metrics_) return;  // a run without a folder
    const std::string text = line + '\n';
    metrics_->write(metrics_end_, text.data(), static_cast<int64_t>(text.size()));
    metrics_end_ += static_cast<int64_t>(text.size());
    report_->add(line);
  }

  StepReport take_step(Trainer& trainer, OutputFolder* folder) {
    const std::vector<int32_t> tokens =
        read_windows(data_, sampler_, trainer.steps_done() - position_.first,
                     trainer.sequences_per_step(), sequence_);
    const StepReport report = trainer.step(tokens);
    if (on_data_) on_data_(position_);
    if (folder != nullptr) folder->keep();
    RunProgress progress;
    progress.total_steps = total_steps_;
    progress.step = report.step;
    progress.report = &report;
    progress.metrics_line = metrics_line(report);
    write_metrics(progress.metrics_line);
    report_->add(report);
    kill_point(FaultSite::kStepReported);
    if (tensorboard_) tensorboard_->step(report);
    tell(trainer, progress);
    return report;
  }

  // Whoever is told may take steps on other tokens: those take none of the data, which go on where
  // they are.
  void tell(Trainer& trainer, const RunProgress& progress) {
    on_progress_(progress);
    const int64_t others = trainer.steps_done() - progress.step;
    if (others == 0) return;
    position_.first += others;
    if (!ends_with_data_) return;
    total_steps_ += others;
    trainer.set_total_steps(total_steps_);
  }

  void evaluate(Trainer& trainer) {
    RunProgress progress;
    progress.total_steps = total_steps_;
    progress.step = trainer.steps_done();
    try {
      progress.eval_loss = evaluate_all(trainer, *eval_data_, [this] {
        if (between_) between_();
        if (stop_) throw EvaluationLeft();
      });
    } catch (const EvaluationLeft&) {
      return;
    }
    progress.metrics_line =
        Json{{"step", trainer.steps_done()}, {"eval_loss", progress.eval_loss}}.dump();
    write_metrics(progress.metrics_line);
    if (tensorboard_) tensorboard_->evaluation(trainer.steps_done(), progress.eval_loss);
    tell(trainer, progress);
  }

  // `before`: the steps done until the one of the data.
  void after_step(Trainer& trainer, int64_t before, std::optional<CheckpointWriter>& checkpoints) {
    const auto is_due = [&](int64_t every) {
      return every > 0 && trainer.steps_done() / every > before / every;
    };
    if (checkpoints) {
      hold_error([&] { checkpoints->check(); });
      if (checkpoint_error_) return;
      write_new_plan(trainer, out_);
    }
    evaluated_last_ = eval_data_ && is_due(config_.eval_steps);
    if (evaluated_last_) evaluate(trainer);
    if (checkpoints && is_due(config_.save_steps)) {
      hold_error([&] { checkpoints->finish(); });  // the one before
      if (checkpoint_error_) return;
      checkpoints->begin(position_);
      hold_error([&] {
        report_->begin_page(trainer, fmt::format("under way, after step {} of {}",
                                                 trainer.steps_done(), total_steps_));
      });
    }
  }

  const TrainConfig& config_;
  OutputLock lock_;           // before all that writes
  int64_t newest_kept_ = -1;  // what --out holds of later steps is of a branch that is left
  std::vector<std::string> set_aside_;
  std::string out_;  // the folder that is written, from anywhere; empty: none
  const std::function<void(const RunProgress&)>& on_progress_;
  const std::atomic<bool>& stop_;
  std::function<void()> between_;
  std::function<void(const RunMark&)> on_folder_;
  std::function<void(const DataPosition&)> on_data_;
  ModelConfig model_;
  int64_t sequence_;
  DataPosition position_;  // before the data, whose opening sets what they are
  TokenDataset data_;
  WindowSampler sampler_;
  std::optional<TokenDataset> eval_data_;
  int64_t total_steps_ = 0;
  bool ends_with_data_ = false;  // total_steps_ counts what is left of the data
  std::optional<File> metrics_;
  int64_t metrics_end_ = 0;
  std::optional<TensorBoardLog> tensorboard_;
  std::optional<ReportWriter> report_;  // from the first step on
  std::vector<double> op_seconds_;      // of the plan that was written last
  bool evaluated_last_ = false;
  std::exception_ptr checkpoint_error_;
  std::optional<Tracing> tracing_;
};

}  // namespace

// In pieces, so that the tokens of large data are never in memory together.
double evaluate_all(Trainer& trainer, const TokenDataset& data,
                    const std::function<void()>& between) {
  constexpr int64_t kPieceTokens = int64_t{4} << 20;
  const int64_t batch = trainer.config().batch_size;
  const auto width = static_cast<size_t>(trainer.sequence_length() + 1);
  const int64_t batches = kPieceTokens / (batch * trainer.sequence_length());
  const int64_t piece = std::max<int64_t>(1, batches) * batch;
  double sum = 0;
  for (int64_t first = 0; first < data.windows(); first += piece) {
    const int64_t count = std::min(piece, data.windows() - first);
    std::vector<int32_t> tokens(static_cast<size_t>(count) * width);
    for (int64_t w = 0; w < count; ++w) {
      data.read_window(first + w, std::span(tokens).subspan(static_cast<size_t>(w) * width, width));
    }
    sum += trainer.evaluate(tokens, between) * static_cast<double>(count);
  }
  return sum / static_cast<double>(data.windows());
}

bool ends_with_data(const TrainConfig& config, const Continuation& from) {
  return from.from_here || !(config.steps || (!config.epochs && from.resumed.total_steps));
}

std::string resume_folder(const TrainConfig& config) {
  if (config.resume_from_checkpoint.empty()) return "";
  if (config.resume_from_checkpoint != "latest") {
    const fs::path parent = fs::path(config.resume_from_checkpoint).parent_path();
    AtomicDirectory::recover(parent.empty() ? "." : parent.string());
    return config.resume_from_checkpoint;
  }
  if (config.out.empty()) {
    throw Error(ErrorKind::kBadInput,
                "--resume-from-checkpoint latest: --out is missing; give the folder of the run");
  }
  AtomicDirectory::recover(config.out);
  const int64_t step = newest_checkpoint(config.out);
  if (step < 0) {
    throw Error(
        ErrorKind::kBadInput,
        "--resume-from-checkpoint latest: there is no checkpoint under --out " + config.out);
  }
  return checkpoint_path(config.out, step);
}

RunResult run_training(const TrainConfig& config,
                       const std::function<void(const RunProgress&)>& on_progress,
                       const std::function<void(const std::string&)>& on_note,
                       const std::atomic<bool>& stop) {
  // Whoever is told of the progress may take the process to another folder.
  const TrainConfig absolute = with_absolute_paths(config);
  return Loop(absolute, on_progress, stop).run(on_note);
}

RunResult run_training(Trainer& trainer, const TrainConfig& config, const Continuation& from,
                       const std::function<void(const RunProgress&)>& on_progress,
                       const std::atomic<bool>& stop) {
  return Loop(config, on_progress, stop).go_on(trainer, from);
}

}  // namespace hetmem
