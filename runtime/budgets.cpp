#include "runtime/budgets.h"

#include <algorithm>

#include "core/byte_size.h"
#include "core/error.h"

namespace hetmem {

Budgets budgets_of(const TrainConfig& config) {
  const int64_t usable = available_memory() / 10 * 9;
  Budgets budgets;
  budgets.device = config.device_memory == kAutoBytes ? usable : config.device_memory;
  budgets.host = config.host_memory == kAutoBytes
                     ? std::max<int64_t>(0, usable - std::min(usable, budgets.device))
                     : config.host_memory;
  return budgets;
}

int64_t smallest_device_memory(const MemoryPlan& training, const MemoryPlan& evaluation) {
  // Evaluation runs between steps, in the room of the pool; what the optimizer keeps stays.
  const int64_t during_evaluation = total(evaluation.bytes()) + training.gradients.bytes +
                                    training.moments * training.optimizer.bytes;
  return std::max(total(training.bytes()), during_evaluation);
}

Budgets resolve_budgets(const TrainConfig& config, const MemoryPlan& training,
                        const MemoryPlan& evaluation) {
  const Budgets budgets = budgets_of(config);
  const int64_t needed = smallest_device_memory(training, evaluation);
  if (needed > budgets.device) {
    throw Error(ErrorKind::kDoesNotFit,
                "the model needs " + format_byte_size(needed) + " (" + std::to_string(needed) +
                    " bytes) of device memory, the budget is " + format_byte_size(budgets.device) +
                    "; the smallest --device-memory that works is " + std::to_string(needed));
  }
  return budgets;
}

}  // namespace hetmem
