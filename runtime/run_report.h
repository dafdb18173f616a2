// The report of a run, OUT/report.html: a page of its own that needs neither network nor libraries,
// readable in light and dark. Curves over all steps, the memory of each tier and the lanes over one
// step, the plan beside what was measured, configuration and machine. Pure.
//
//   RunReport report;
//   report.metrics = read_metrics(out + "/metrics.jsonl");
//   ...
//   write_text_file(out + "/report.html", to_html(report));
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "core/trace.h"
#include "planner/plan.h"
#include "runtime/plan_report.h"
#include "runtime/run_metrics.h"
#include "runtime/step_timeline.h"
#include "runtime/trainer.h"

namespace hetmem {

// The ops of one kind in a step, together.
struct OpKindTime {
  int calls = 0;
  double seconds = 0;
};
// By what is before the first space of a name ("linear model.layers.0.mlp.up_proj").
using OpKindTimes = std::map<std::string, OpKindTime>;
OpKindTimes times_by_kind(const std::vector<std::string>& op_names,
                          const std::vector<double>& op_seconds);

// A step over time, and the plan that it follows.
struct PlannedTimeline {
  Plan plan;
  StepTimeline timeline;
  std::vector<std::string> op_names;  // by op of the trace
};

struct RunReport {
  std::string model;    // as given: a folder
  std::string out;      // the folder of the run
  std::string outcome;  // "finished", "stopped by a signal", an error
  bool failed = false;
  std::string config_yaml;
  std::vector<std::pair<std::string, std::string>> machine;  // name, value
  RunMetrics metrics;
  PlanReport planned;
  TierUse device;  // of the last step; without kinds where metrics.jsonl is all that is known of it
  TierUse host;
  TierUse disk;
  PlannedTimeline step;
  OpKindTimes assumed_times;   // by the rates of the machine
  OpKindTimes measured_times;  // empty: no step was measured

  bool has_disk() const { return planned.disk.peak > 0; }
};

std::string to_html(const RunReport& report);

// The step as tracks and counters of a trace: a track a lane, a counter a tier.
trace::Process to_trace(const PlannedTimeline& step);

}  // namespace hetmem
