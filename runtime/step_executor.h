// StepExecutor: runs a Plan, action by action, on the lanes of a device: compute, the two
// directions of the link, and the host's own work. Nothing is decided here: what a copy waits for,
// and where every operand is, the Plan says. A late copy makes compute wait; it never changes a
// result.
//
// With Plan::overlap steps of the host go on when update() returns, and the next run() waits for
// each where it needs what it makes: whoever looks at chunks in between calls finish() first.
//
// It owns inputs, constants and scalars; pool, chunks and lanes belong to the caller and outlive
// it. Not thread-safe.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "chunk_manager/chunk_manager.h"
#include "chunk_manager/page_transfers.h"
#include "device/stream.h"
#include "device/tier.h"
#include "graph/compile.h"
#include "offload/transfer_engine.h"
#include "planner/plan.h"
#include "runtime/step_trace.h"

namespace hetmem {

struct MicroBatch {
  std::vector<int32_t> tokens;  // [B * T]
  std::vector<int32_t> labels;
};

struct Lanes {
  Stream& compute;
  CpuStream& host;  // its work runs on host memory
  TransferEngine& transfers;
  PageTransfers* pages = nullptr;  // where chunks are on disk
};

// One piece of a tensor with all that its optimizer step takes, in one memory space.
struct PieceState {
  int tensor = 0;  // by Program::weights
  TensorView weight;
  TensorView low;  // the other half of a weight that is split, else empty
  TensorView gradient;
  TensorView first_moment;
  TensorView second_moment;  // empty where the optimizer keeps one
};
using PieceStep = std::function<void(Stream& stream, const PieceState& piece)>;

class StepExecutor {
 public:
  // Reserves inputs and scalars in `device`. Throws Error (kInternal) for a plan that does not fit
  // the trace: an operand that is not where it is used.
  StepExecutor(const Program& program, const StepTrace& trace, const Plan& plan,
               ChunkManager& chunks, const Buffer& pool, Tier& device, const Lanes& lanes);
  ~StepExecutor() { drain(); }
  StepExecutor(const StepExecutor&) = delete;
  StepExecutor& operator=(const StepExecutor&) = delete;

  // What the pool held is gone or not there yet: the next run brings what a step begins with.
  void forget_pool() { warm_ = false; }
  // Enqueues forward and backward passes over all micro-batches of a step and waits for loss and
  // norm. `measure`: keeps the time of each op. `early`, if it is not empty, steps the early chunks
  // of the plan into their twins as gradients arrive; update() says whether that stands.
  void run(std::span<const MicroBatch> batches, double loss_scale,
           const std::function<uint64_t(int64_t micro)>& random_key, bool measure = false,
           const PieceStep& early = {});
  // The sum of the losses of the last run.
  double loss() const { return scalars()[0]; }
  // The norm of all gradients: tensors in the order of the model.
  double gradient_norm() const;
  // Steps every trained piece, each on the stream where its state is; with an empty function the
  // step is skipped. `early_stands`: but for those that were stepped early, whose twins are the
  // state now. Then brings what the next step begins with. Waits for what is on the device, and
  // without overlap or with `measure` for all.
  void update(const PieceStep& step, bool measure = false, bool early_stands = false);
  // Waits for everything under way; rethrows the first error of it.
  void finish() { synchronize(); }

  // Seconds by op of the trace, as the last measured run took them, and of the optimizer by chunk.
  const std::vector<double>& op_seconds() const { return op_seconds_; }
  const std::vector<double>& update_seconds() const { return update_seconds_; }

 private:
  struct Norm {
    TensorView gradient;
    TensorView sum;
  };
  // What an action does, with every operand resolved.
  struct Command {
    OpCall call;
    std::vector<Norm> norms;
    bool awaited = false;  // another action waits for it
  };
  // Whose memory a step is bound to.
  enum class StateOf : uint8_t { kHome, kTwin };

  void place_fixed();
  void bind();
  Command bind_op(int op) const;
  Command bind_norm(int op, int chunk) const;
  void enqueue_copy(const Action& action, Stream& stream);
  std::vector<PieceState> pieces_of(int chunk, StateOf which) const;
  TensorView operand(int op, ValueId id, bool written) const;
  TensorView piece_view(int op, const PieceOf& piece, DType dtype, const Shape& shape,
                        bool gradient) const;
  const Residency& residency_of(int chunk, int op, bool gradient) const;
  TensorView pool_view(int64_t offset, DType dtype, const Shape& shape) const;
  void copy_inputs(std::span<const MicroBatch> batches);
  void enqueue(int action, const PieceStep* step);
  void enqueue_step(int chunk, Stream& stream, const PieceStep& step);
  void enqueue_paged_step(int chunk, Stream& stream, const PieceStep& step);
  void sum_page_seconds();
  void check_host();
  void enqueue_early(int chunk, const PieceStep& step);
  bool take_early(int action, bool stands);
  void enqueue_op(const Action& action, Command& command, Stream& stream);
  Stream& lane(Lane lane) const;
  void bring_first();
  void synchronize();
  // Waits for what is under way after an error that is on its way to the caller.
  void drain() noexcept;
  // The loss, then norms, as the last copy brought them.
  const double* scalars() const { return static_cast<const double*>(staging_.data()); }
  int64_t token_bytes() const;

  const Program& program_;
  const StepTrace& trace_;
  const Plan& plan_;
  ChunkManager& chunks_;
  const Buffer& pool_;
  Lanes lanes_;
  Buffer fixed_;
  // Host memory of what is copied with every step: scalars, the zero that a loss begins with, and
  // the inputs of all micro-batches.
  Tier staging_tier_;
  Buffer staging_;
  std::vector<std::vector<int>> residencies_of_chunk_;
  std::vector<Command> commands_;  // by action
  std::vector<Event> events_;      // by action: of its last run
  std::vector<int> early_;         // by chunk: its early step, under way or done; -1: none
  bool warm_ = false;
  // Of the run under way.
  double loss_scale_ = 1;
  std::function<uint64_t(int64_t)> random_key_;
  bool measure_ = false;
  std::vector<double> op_seconds_;
  std::vector<double> update_seconds_;
  std::deque<std::pair<int, double>> page_seconds_;  // of chunks on disk, by page
};

}  // namespace hetmem
