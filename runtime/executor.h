// Executor: runs a Program on a stream, in order, with every operand at the place that the
// MemoryPlan gave it. It owns the pool, the inputs and the constants; weights and gradients belong
// to the caller. Not thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "device/stream.h"
#include "device/tier.h"
#include "graph/compile.h"
#include "runtime/memory_plan.h"

namespace hetmem {

// Where weights and gradients are, by Program::weights; a frozen weight has an empty gradient, and
// so has every one where the plan puts gradients into the pool.
struct ParameterViews {
  std::vector<TensorView> weights;
  std::vector<TensorView> gradients;
};

class Executor {
 public:
  // Reserves the pool and the inputs in `device`. Program and plan must outlive the executor.
  Executor(const Program& program, const MemoryPlan& plan, Tier& device, Stream& stream,
           const ParameterViews& parameters);

  // Enqueues one micro-batch: tokens and labels [B*T], copied before the call returns.
  void run(std::span<const int32_t> tokens, std::span<const int32_t> labels,
           const OpRuntime& runtime);
  // Sets the loss to zero, in stream order.
  void clear_loss();
  // Waits for the stream; the sum of the losses since clear_loss().
  double loss();
  // Where the gradient of a weight is (by Program::weights); empty where it is frozen.
  TensorView gradient(size_t weight) const;

 private:
  void bind(const ParameterViews& parameters);
  TensorView place(ValueId id) const;

  const Program& program_;
  const MemoryPlan& plan_;
  Stream& stream_;
  Buffer pool_;
  Buffer inputs_;
  std::vector<TensorView> views_;  // by value
  std::vector<OpCall> calls_;      // by step
  TensorView tokens_;
  TensorView labels_;
  std::vector<int32_t> host_tokens_;  // staging: the stream copies from here
  std::vector<int32_t> host_labels_;
};

}  // namespace hetmem
