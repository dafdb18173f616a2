#include "runtime/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>

#include "core/error.h"

namespace hetmem {
namespace {

double ratio_to_steps(double value, int64_t total) {
  return value < 1 ? std::ceil(value * static_cast<double>(total)) : value;
}

double half_cosine(double progress) { return 0.5 * (1.0 + std::cos(std::numbers::pi * progress)); }

// get_wsd_schedule with cosine decay and linear warm-up; the stable part is what is left.
double wsd_factor(const TrainConfig& config, double step, double warmup, int64_t total) {
  const double decay = ratio_to_steps(config.decay_steps.value_or(0.1), total);
  const double stable = static_cast<double>(total) - warmup - decay;
  const double floor = config.min_lr_ratio;
  if (step < warmup) return step / std::max(1.0, warmup) * (1.0 - floor) + floor;
  if (step < warmup + stable) return 1.0;
  if (step < warmup + stable + decay) {
    const double progress = (step - warmup - stable) / std::max(1.0, decay);
    return half_cosine(progress) * (1.0 - floor) + floor;
  }
  return floor;
}

}  // namespace

int64_t warmup_steps_of(const TrainConfig& config, int64_t total) {
  return static_cast<int64_t>(ratio_to_steps(config.warmup_steps, total));
}

double schedule_factor(const TrainConfig& config, int64_t step, int64_t total) {
  if (total == kNoEnd && config.warmup_steps > 0 && config.warmup_steps < 1) {
    throw Error(ErrorKind::kBadInput, "--warmup-steps " + std::to_string(config.warmup_steps) +
                                          " is a ratio of all steps, whose number is not known; "
                                          "give --steps, or the warm-up in steps");
  }
  const auto warmup = static_cast<double>(warmup_steps_of(config, total));
  const auto at = static_cast<double>(step);
  const auto end = static_cast<double>(total);
  if (config.lr_scheduler_type == ScheduleKind::kConstant) return 1.0;
  if (config.lr_scheduler_type == ScheduleKind::kWsd) {
    return wsd_factor(config, at, warmup, total);
  }
  if (at < warmup) return at / std::max(1.0, warmup);
  if (total == kNoEnd) return 1.0;
  const double remaining = std::max(1.0, end - warmup);
  const double progress = (at - warmup) / remaining;
  switch (config.lr_scheduler_type) {
    case ScheduleKind::kLinear:
      return std::max(0.0, (end - at) / remaining);
    case ScheduleKind::kCosine: {
      const double factor = half_cosine(progress);
      return std::max(0.0, factor * (1.0 - config.min_lr_ratio) + config.min_lr_ratio);
    }
    default:
      return 1.0;
  }
}

}  // namespace hetmem
