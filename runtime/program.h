// From a configuration to the Programs that a run executes. Pure.
#pragma once

#include <cstdint>

#include "graph/compile.h"
#include "io/model_config.h"
#include "runtime/train_config.h"

namespace hetmem {

// One micro-batch of training: forward, backward, gradients of what --freeze leaves. Throws Error
// (kBadInput) where the expression is not valid or leaves nothing to train.
Program compile_training(const ModelConfig& model, const TrainConfig& config, int64_t sequence);
// The forward pass alone, without dropout.
Program compile_evaluation(const ModelConfig& model, const TrainConfig& config, int64_t sequence);

}  // namespace hetmem
