// ReportWriter: what a run leaves for people: OUT/report.html, at each checkpoint and when it ends,
// however it ends, and the trace that --trace asks for. It is told of each line of metrics.jsonl
// and of each step. A page on the way is written beside training, by a thread of its own. Not
// thread-safe.
#pragma once

#include <future>
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
  // Begins to write the run as it is now, when the page before is written; throws its Error
  // (kStorage). Of a run without a step there is no page.
  void begin_page(const Trainer& trainer, const std::string& outcome);
  // The same, done when it returns: the last page, which stands for one that could not be written
  // before. Throws Error (kStorage); the page before is then still there.
  void write_page(const Trainer& trainer, const std::string& outcome, bool failed = false);
  // What was recorded since trace::start(), beside the step as it is planned. Throws Error
  // (kStorage).
  void write_trace(const Trainer& trainer) const;

 private:
  // What a page is made from: values, so that the run goes on meanwhile.
  struct Draft {
    RunReport report;
    AccessTrace trace;
  };
  Draft draft(const Trainer& trainer, const std::string& outcome, bool failed) const;
  void write(Draft draft) const;
  bool has_page() const { return !out_.empty() && metrics_.steps > 0; }

  const TrainConfig& config_;
  const std::string out_;
  std::vector<double> assumed_seconds_;
  OpKindTimes assumed_times_;
  RunMetrics metrics_;
  TierUse device_, host_, disk_;  // of the last step; without kinds where it is of another start
  std::future<void> page_;        // last: it works on what is above
};

}  // namespace hetmem
