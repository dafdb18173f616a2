// RunMetrics: what metrics.jsonl says of a run, over all its starts, in bounded memory: a curve of
// each figure and the last steps. Lines are added as they are written, or read from the file.
// Values; thread-safe to read.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "runtime/bounded_curve.h"

namespace hetmem {

struct TierMetrics {
  int64_t peak = 0;
  int64_t budget = 0;
};

struct StepMetrics {
  int64_t step = 0;
  double loss = std::numeric_limits<double>::quiet_NaN();  // NaN: skipped, or not finite
  double grad_norm = std::numeric_limits<double>::quiet_NaN();
  double learning_rate = 0;
  double seconds = 0;
  double tokens_per_second = 0;
  double exposed_copy_seconds = 0;
  double fraction_of_bound = 0;
  double to_device = 0;  // bytes
  double to_host = 0;
  double disk_read = 0;
  double disk_write = 0;
  TierMetrics device, host, disk;
};

struct RunMetrics {
  static constexpr size_t kRecentSteps = 8;

  // A line of metrics.jsonl; one that is none (cut off by a full disk) is passed over.
  void add(const std::string& line);
  void add(const StepMetrics& step);
  // Of the last steps, one figure: the middle of its values; 0 without any.
  double recent_median(double StepMetrics::*figure) const;

  BoundedCurve loss, grad_norm, learning_rate, tokens_per_second;
  BoundedCurve bound;  // tokens a second, by the plan's lower bound
  BoundedCurve evaluation_loss;
  int64_t steps = 0;                // lines of steps
  std::vector<StepMetrics> recent;  // at most kRecentSteps
};

// A file that is missing has none.
RunMetrics read_metrics(const std::string& path);

}  // namespace hetmem
