// Learning-rate schedules: the factor of step k (from 0) as Hugging Face's `lambda(k)`. Pure.
#pragma once

#include <cstdint>

#include "runtime/train_config.h"

namespace hetmem {

// The length of a run whose end is not known: no schedule decays.
constexpr int64_t kNoEnd = int64_t{1} << 60;

// Warm-up steps of a run of `total` steps: a value below 1 is a ratio, rounded up.
int64_t warmup_steps_of(const TrainConfig& config, int64_t total);
// The factor on --learning-rate at step `step` (from 0) of `total`. Sources: get_linear_,
// get_cosine_, get_constant_, get_cosine_with_min_lr_ and get_wsd_schedule of transformers. Throws
// Error (kBadInput) for a warm-up that is a ratio of kNoEnd steps.
double schedule_factor(const TrainConfig& config, int64_t step, int64_t total);

}  // namespace hetmem
