#include "runtime/step_executor.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/fault_plan.h"
#include "core/trace.h"
#include "ops/ops.h"

namespace hetmem {
namespace {

constexpr int64_t kDoubleBytes = sizeof(double);

TensorView slice(const TensorView& list, const ChunkPiece& piece) {
  return {static_cast<char*>(list.data) + piece.offset * size_of(list.dtype), list.dtype,
          Shape{piece.elements}, list.space};
}

}  // namespace

StepExecutor::StepExecutor(const Program& program, const StepTrace& trace, const Plan& plan,
                           ChunkManager& chunks, const Buffer& pool, Tier& device,
                           const Lanes& lanes)
    : program_(program),
      trace_(trace),
      plan_(plan),
      chunks_(chunks),
      pool_(pool),
      lanes_(lanes),
      fixed_(device, trace.fixed.bytes, MemoryKind::kStaging, MemorySpace::kDevice),
      staging_tier_("staging", trace.access.output_bytes + trace.access.input_bytes,
                    lanes.transfers.host_memory()),
      staging_(staging_tier_, staging_tier_.budget(), MemoryKind::kStaging, MemorySpace::kHost) {
  HETMEM_ASSERT(pool.bytes() >= plan.pool_bytes);
  fixed_.populate();
  op_seconds_.assign(trace.ops.size(), 0.0);
  update_seconds_.assign(trace.access.chunks.size(), 0.0);
  place_fixed();
  bind();
}

void StepExecutor::place_fixed() {
  for (size_t i = 0; i < program_.values.size(); ++i) {
    const Value& value = program_.values[i];
    if (value.kind != ValueKind::kConstant) continue;
    const TensorView view = fixed_.view(trace_.fixed.constants[i], value.dtype, value.shape);
    lanes_.transfers.copy_to_device(view.data, value.constant->data(), view.bytes());
  }
}

Stream& StepExecutor::lane(Lane lane) const {
  switch (lane) {
    case Lane::kCompute:
      return lanes_.compute;
    case Lane::kToDevice:
      return lanes_.transfers.to_device();
    case Lane::kToHost:
      return lanes_.transfers.to_host();
    case Lane::kHost:
      break;
  }
  return lanes_.host;
}

void StepExecutor::bind() {
  residencies_of_chunk_.resize(trace_.access.chunks.size());
  for (size_t r = 0; r < plan_.residencies.size(); ++r) {
    residencies_of_chunk_[static_cast<size_t>(plan_.residencies[r].chunk)].push_back(
        static_cast<int>(r));
  }
  for (const Action& action : plan_.actions) {
    switch (action.kind) {
      case Action::Kind::kOp: {
        const int chunk = trace_.ops[static_cast<size_t>(action.target)].chunk;
        commands_.push_back(chunk >= 0 ? bind_norm(action.target, chunk) : bind_op(action.target));
        break;
      }
      case Action::Kind::kFetch:
      case Action::Kind::kSend:
        commands_.push_back(bind_copy(action));
        break;
      case Action::Kind::kDeviceStep:
      case Action::Kind::kHostStep:
        commands_.push_back(bind_update(action.target));
        break;
      default:
        commands_.emplace_back();
    }
    for (const int other : action.waits) commands_[static_cast<size_t>(other)].awaited = true;
  }
  events_.resize(plan_.actions.size());
}

TensorView StepExecutor::pool_view(int64_t offset, DType dtype, const Shape& shape) const {
  return pool_.view(offset, dtype, shape);
}

const Residency& StepExecutor::residency_of(int chunk, int op, bool gradient) const {
  for (const int r : residencies_of_chunk_[static_cast<size_t>(chunk)]) {
    const Residency& residency = plan_.residencies[static_cast<size_t>(r)];
    if ((gradient ? residency.gradient : residency.weights) && residency.first_use <= op &&
        op <= residency.last_use) {
      return residency;
    }
  }
  throw Error(ErrorKind::kInternal, "the plan has chunk " + std::to_string(chunk) +
                                        " nowhere at op " + std::to_string(op));
}

TensorView StepExecutor::piece_view(int op, const PieceOf& piece, DType dtype, const Shape& shape,
                                    bool gradient) const {
  const int64_t offset = chunks_.layout().piece(piece).offset * size_of(dtype);
  if (!gradient && plan_.resident[static_cast<size_t>(piece.chunk)]) {
    HETMEM_ASSERT(chunks_.resident(piece.chunk));
    const TensorView list = chunks_.whole(ChunkList::kWeights, piece.chunk);
    return {static_cast<char*>(list.data) + offset, dtype, shape, list.space};
  }
  return pool_view(residency_of(piece.chunk, op, gradient).offset + offset, dtype, shape);
}

TensorView StepExecutor::operand(int op, ValueId id, bool written) const {
  const OpInstance& at = trace_.ops[static_cast<size_t>(op)];
  const Value& value = program_.value(id);
  switch (value.kind) {
    case ValueKind::kWeight:
    case ValueKind::kGradient: {
      const std::vector<PieceOf> pieces =
          pieces_of_operand(program_, chunks_.layout(), at, id, written);
      if (pieces.empty()) return {};
      HETMEM_ASSERT(pieces.size() == 1);
      const ChunkPiece& piece = chunks_.layout().piece(pieces.front());
      const bool whole = piece.elements == value.shape.elements();
      const Shape shape = whole ? value.shape : Shape{piece.rows, value.shape[-1]};
      return piece_view(op, pieces.front(), value.dtype, shape, value.kind == ValueKind::kGradient);
    }
    case ValueKind::kConstant:
      return fixed_.view(trace_.fixed.constants[static_cast<size_t>(id)], value.dtype, value.shape);
    case ValueKind::kInput: {
      const int64_t labels = value.name == "labels" ? value.bytes() : 0;
      return fixed_.view(trace_.fixed.tokens + at.micro * trace_.fixed.micro_batch_bytes + labels,
                         value.dtype, value.shape);
    }
    case ValueKind::kLoss:
      return fixed_.view(trace_.fixed.loss, value.dtype, value.shape);
    default: {
      const int buffer = trace_.buffers[static_cast<size_t>(at.micro)][static_cast<size_t>(id)];
      HETMEM_ASSERT(buffer >= 0);
      return pool_view(plan_.buffer_offsets[static_cast<size_t>(buffer)], value.dtype, value.shape);
    }
  }
}

StepExecutor::Command StepExecutor::bind_op(int op) const {
  const OpInstance& at = trace_.ops[static_cast<size_t>(op)];
  const Step& step = program_.steps[static_cast<size_t>(at.step)];
  Command command;
  command.call.kind = step.node.op;
  command.call.params = step.node.params;
  command.call.part = at.part;
  for (const ValueId id : step.node.inputs) command.call.inputs.push_back(operand(op, id, false));
  for (const ValueId id : step.node.outputs) command.call.outputs.push_back(operand(op, id, true));
  const int workspace = trace_.workspaces[static_cast<size_t>(op)];
  if (workspace >= 0) {
    command.call.workspace = pool_view(plan_.buffer_offsets[static_cast<size_t>(workspace)],
                                       DType::kUint8, Shape{step.workspace_bytes});
  }
  return command;
}

StepExecutor::Command StepExecutor::bind_norm(int op, int chunk) const {
  Command command;
  const ChunkShape& shape = chunks_.layout().chunks[static_cast<size_t>(chunk)];
  for (size_t p = 0; p < shape.pieces.size(); ++p) {
    const int slot = trace_.norm_slots[static_cast<size_t>(chunk)][p];
    command.norms.push_back(
        {piece_view(op, {chunk, static_cast<int>(p)}, DType::kFloat32,
                    Shape{shape.pieces[p].elements}, true),
         fixed_.view(trace_.fixed.norms + slot * static_cast<int64_t>(sizeof(double)),
                     DType::kFloat64, Shape{1})});
  }
  return command;
}

StepExecutor::Command StepExecutor::bind_copy(const Action& action) const {
  const Residency& residency = plan_.residencies[static_cast<size_t>(action.target)];
  char* slot = static_cast<char*>(pool_.data()) + residency.offset;
  Command command;
  if (action.kind == Action::Kind::kSend) {
    command.copy = {chunks_.waiting_gradient(residency.chunk).data, slot, residency.bytes};
  } else {
    const TensorView from = residency.weights ? chunks_.whole(ChunkList::kWeights, residency.chunk)
                                              : chunks_.waiting_gradient(residency.chunk);
    command.copy = {slot, from.data, residency.bytes};
  }
  return command;
}

StepExecutor::Command StepExecutor::bind_update(int chunk) const {
  Command command;
  const bool on_device = chunks_.resident(chunk);
  HETMEM_ASSERT(on_device == static_cast<bool>(plan_.resident[static_cast<size_t>(chunk)]));
  const ChunkShape& shape = chunks_.layout().chunks[static_cast<size_t>(chunk)];
  const TensorView gradient = on_device
                                  ? pool_view(residency_of(chunk, trace_.access.ops(), true).offset,
                                              DType::kFloat32, Shape{shape.elements})
                                  : chunks_.waiting_gradient(chunk);
  for (const ChunkPiece& piece : shape.pieces) {
    PieceState state;
    state.tensor = piece.tensor;
    state.weight = slice(chunks_.whole(ChunkList::kWeights, chunk), piece);
    if (shape.split) state.low = slice(chunks_.low(chunk), piece);
    state.gradient = slice(gradient, piece);
    state.first_moment = slice(chunks_.whole(ChunkList::kFirstMoment, chunk), piece);
    if (chunks_.moments() > 1) {
      state.second_moment = slice(chunks_.whole(ChunkList::kSecondMoment, chunk), piece);
    }
    command.pieces.push_back(std::move(state));
  }
  return command;
}

void StepExecutor::copy_inputs(std::span<const MicroBatch> batches) {
  int64_t ids = 0;
  for (const MicroBatch& batch : batches) {
    HETMEM_ASSERT(batch.tokens.size() == batch.labels.size());
    ids += static_cast<int64_t>(batch.tokens.size() + batch.labels.size());
  }
  HETMEM_ASSERT(ids * static_cast<int64_t>(sizeof(int32_t)) == token_bytes());
  auto* to = staging_.view(trace_.access.output_bytes + kDoubleBytes, DType::kInt32, Shape{ids})
                 .as<int32_t>();
  for (const MicroBatch& batch : batches) {
    to = std::copy(batch.tokens.begin(), batch.tokens.end(), to);
    to = std::copy(batch.labels.begin(), batch.labels.end(), to);
  }
}

int64_t StepExecutor::token_bytes() const { return trace_.access.input_bytes - kDoubleBytes; }

void StepExecutor::enqueue_op(const Action& action, Command& command, Stream& stream) {
  if (measure_) stream.start_timer();
  for (const Norm& norm : command.norms) ops::sum_of_squares(stream, norm.gradient, norm.sum);
  if (command.norms.empty()) {
    const OpInstance& op = trace_.ops[static_cast<size_t>(action.target)];
    command.call.runtime.loss_scale = loss_scale_;
    command.call.runtime.random_key = random_key_(op.micro);
    command.call.runtime.accumulate =
        op.micro > 0 || program_.steps[static_cast<size_t>(op.step)].node.accumulates;
    ops::launch(stream, command.call);
  }
  if (measure_) stream.stop_timer(op_seconds_[static_cast<size_t>(action.target)]);
}

void StepExecutor::enqueue(int index, const PieceStep* step) {
  const Action& action = plan_.actions[static_cast<size_t>(index)];
  Command& command = commands_[static_cast<size_t>(index)];
  const Copy& copy = command.copy;
  Stream& stream = lane(action.lane);
  char* fixed = static_cast<char*>(fixed_.data());
  char* staging = static_cast<char*>(staging_.data());
  for (const int other : action.waits) stream.wait(events_[static_cast<size_t>(other)]);
  switch (action.kind) {
    case Action::Kind::kInputs:
      staging += trace_.access.output_bytes;
      stream.copy(fixed + trace_.fixed.tokens, staging + kDoubleBytes, token_bytes(),
                  CopyDirection::kToDevice);
      stream.copy(fixed + trace_.fixed.loss, staging, kDoubleBytes, CopyDirection::kToDevice);
      break;
    case Action::Kind::kOp:
      enqueue_op(action, command, stream);
      break;
    case Action::Kind::kFetch:
      stream.copy(copy.destination, copy.source, copy.bytes, CopyDirection::kToDevice);
      break;
    case Action::Kind::kSend:
      stream.copy(copy.destination, copy.source, copy.bytes, CopyDirection::kToHost);
      break;
    case Action::Kind::kOutputs:
      stream.copy(staging, fixed + trace_.fixed.loss, trace_.access.output_bytes,
                  CopyDirection::kToHost);
      break;
    case Action::Kind::kDeviceStep:
    case Action::Kind::kHostStep:
      if (step == nullptr || !*step) break;
      kill_point(FaultSite::kStepChunk);
      chunks_.before_change(action.target, stream);
      if (measure_) stream.start_timer();
      for (const PieceState& piece : command.pieces) (*step)(stream, piece);
      if (measure_) stream.stop_timer(update_seconds_[static_cast<size_t>(action.target)]);
      break;
  }
  if (command.awaited) events_[static_cast<size_t>(index)] = stream.record();
}

void StepExecutor::synchronize() {
  lanes_.compute.synchronize();
  lanes_.transfers.synchronize();
  lanes_.host.synchronize();
}

void StepExecutor::run(std::span<const MicroBatch> batches, double loss_scale,
                       const std::function<uint64_t(int64_t micro)>& random_key, bool measure) {
  loss_scale_ = loss_scale;
  random_key_ = random_key;
  measure_ = measure;
  copy_inputs(batches);
  try {
    if (!warm_) {
      for (int i = plan_.next; i < static_cast<int>(plan_.actions.size()); ++i) {
        const Copy& copy = commands_[static_cast<size_t>(i)].copy;
        lanes_.transfers.to_device().copy(copy.destination, copy.source, copy.bytes,
                                          CopyDirection::kToDevice);
      }
      lanes_.transfers.to_device().synchronize();
    }
    warm_ = false;
    for (int i = 0; i < plan_.update; ++i) enqueue(i, nullptr);
    synchronize();
  } catch (...) {
    drain();
    throw;
  }
  measure_ = false;
}

double StepExecutor::gradient_norm() const {
  double sum = 0;
  const ChunkLayout& layout = chunks_.layout();
  for (const std::vector<PieceOf>& pieces : layout.pieces) {
    if (!layout.chunks[static_cast<size_t>(pieces.front().chunk)].trained) continue;
    double tensor = 0;
    for (const PieceOf& at : pieces) {
      const int slot =
          trace_.norm_slots[static_cast<size_t>(at.chunk)][static_cast<size_t>(at.piece)];
      tensor += scalars()[1 + slot];
    }
    sum += tensor;
  }
  return std::sqrt(sum);
}

void StepExecutor::update(const PieceStep& step, bool measure) {
  measure_ = measure;
  try {
    for (int i = plan_.update; i < static_cast<int>(plan_.actions.size()); ++i) enqueue(i, &step);
    synchronize();
  } catch (...) {
    drain();
    throw;
  }
  measure_ = false;
  warm_ = true;
}

void StepExecutor::drain() noexcept {
  for (Stream* stream : {&lanes_.compute, &lanes_.host, &lanes_.transfers.to_device(),
                         &lanes_.transfers.to_host()}) {
    try {
      stream->synchronize();
    } catch (...) {  // the first error is on its way to the caller
      continue;
    }
  }
}

}  // namespace hetmem
