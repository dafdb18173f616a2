// ReportWriter: what a run leaves for people: OUT/report.html, at each checkpoint and when it ends,
// however it ends, and the trace that --trace asks for. It is told of each line of metrics.jsonl
// and of each step. Not thread-safe.
#pragma once

#include <string>
#include <vector>

#include "runtime/run_report.h"
#include "runtime/train_config.h"
#include "runtime/trainer.h"

namespace hetmem {

class ReportWriter {
 public:
  // Goes on with the curves of OUT/metrics.jsonl, and keeps what the trainer's plan assumes of ops.
  // `out` empty: there is no page. The configuration outlives this.
  ReportWriter(const TrainConfig& config, const Trainer& trainer, std::string out);
  void add(const std::string& metrics_line) { metrics_.add(metrics_line); }
  void add(const StepReport& step);
  // Without a step of this start there is no page. Throws Error (kStorage); the page before is then
  // still there.
  void write_page(const Trainer& trainer, const std::string& outcome, bool failed = false) const;
  // What was recorded since trace::start(), beside the step as it is planned. Throws Error
  // (kStorage).
  void write_trace(const Trainer& trainer) const;

 private:
  PlannedTimeline planned_step(const Trainer& trainer) const;

  const TrainConfig& config_;
  const std::string out_;
  std::vector<double> assumed_seconds_;
  OpKindTimes assumed_times_;
  RunMetrics metrics_;
  int64_t last_step_ = 0;
  TierUse device_, host_, disk_;  // of the last step
};

}  // namespace hetmem
