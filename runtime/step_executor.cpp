#include "runtime/step_executor.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <utility>

#include "core/error.h"
#include "core/fault_plan.h"
#include "core/trace.h"
#include "device/thread_pool.h"
#include "ops/ops.h"

namespace hetmem {
namespace {

constexpr int64_t kDoubleBytes = sizeof(double);

TensorView part_of(const TensorView& list, const ChunkPiece& piece) {
  return part_of_list(list, piece.offset, piece.elements);
}

// What a step changes.
constexpr std::array<TensorView PieceState::*, 4> kStateLists{
    &PieceState::weight, &PieceState::low, &PieceState::first_moment, &PieceState::second_moment};

PieceState part_of(const PieceState& piece, int64_t first, int64_t count) {
  PieceState part = piece;
  part.gradient = part_of_list(piece.gradient, first, count);
  for (const auto list : kStateLists) part.*list = part_of_list(piece.*list, first, count);
  return part;
}

// Elements [first, first + count) of a chunk, of one tensor, in a page that holds them.
PieceState part_of_page(const PageOfChunk& page, int tensor, int64_t first, int64_t count) {
  PieceState whole;
  whole.tensor = tensor;
  whole.weight = page.weight;
  whole.low = page.low;
  whole.gradient = page.gradient;
  whole.first_moment = page.first_moment;
  whole.second_moment = page.second_moment;
  return part_of(whole, first - page.first, count);
}

void copy_state(ThreadPool& pool, const PieceState& from, const PieceState& to) {
  constexpr int64_t kBytes = int64_t{1} << 18;  // of a task
  for (const auto list : kStateLists) {
    auto* destination = static_cast<char*>((to.*list).data);
    const auto* source = static_cast<const char*>((from.*list).data);
    if (source == nullptr) continue;
    pool.parallel_blocks((from.*list).bytes(), kBytes, [&](int64_t begin, int64_t end) {
      std::memcpy(destination + begin, source + begin, static_cast<size_t>(end - begin));
    });
  }
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
    case Lane::kDiskRead:
    case Lane::kDiskWrite:
      break;  // no action has those of the disk for its own
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
      default:  // twins change places: other memory is looked up when it is used
        commands_.emplace_back();
    }
  }
  for (const Action& action : plan_.actions) {
    for (const int other : action.waits) commands_[static_cast<size_t>(other)].awaited = true;
    for (const int other : action.carried) commands_[static_cast<size_t>(other)].awaited = true;
  }
  for (size_t i = 0; i < commands_.size(); ++i) {
    const Action::Kind kind = plan_.actions[i].kind;
    // The caller waits for outputs; an early step may stand for the later one.
    const bool outside = kind == Action::Kind::kOutputs || kind == Action::Kind::kEarlyStep;
    commands_[i].awaited |= outside;
  }
  events_.resize(plan_.actions.size());
  early_.assign(trace_.access.chunks.size(), -1);
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

// A residency and its home: whole through memory, or page by page from and to the disk.
void StepExecutor::enqueue_copy(const Action& action, Stream& stream) {
  const Residency& residency = plan_.residencies[static_cast<size_t>(action.target)];
  const bool fetch = action.kind == Action::Kind::kFetch;
  const ChunkList list = fetch && residency.weights ? ChunkList::kWeights : ChunkList::kGradient;
  char* slot = static_cast<char*>(pool_.data()) + residency.offset;
  if (chunks_.on_disk(list, residency.chunk)) {
    HETMEM_ASSERT(lanes_.pages != nullptr);
    if (fetch) {
      lanes_.pages->fetch(list, residency.chunk, slot, stream);
    } else {
      lanes_.pages->send(residency.chunk, slot, stream);
    }
    return;
  }
  void* home = chunks_.whole(list, residency.chunk).data;
  stream.copy(fetch ? slot : home, fetch ? home : slot, residency.bytes,
              fetch ? CopyDirection::kToDevice : CopyDirection::kToHost);
}

std::vector<PieceState> StepExecutor::pieces_of(int chunk, StateOf which) const {
  const bool on_device = chunks_.resident(chunk);
  HETMEM_ASSERT(on_device == static_cast<bool>(plan_.resident[static_cast<size_t>(chunk)]));
  const ChunkShape& shape = chunks_.layout().chunks[static_cast<size_t>(chunk)];
  const TensorView gradient = on_device
                                  ? pool_view(residency_of(chunk, trace_.access.ops(), true).offset,
                                              DType::kFloat32, Shape{shape.elements})
                                  : chunks_.whole(ChunkList::kGradient, chunk);
  const bool twin = which == StateOf::kTwin;
  const auto list_of = [&](ChunkList list) {
    return twin ? chunks_.twin(list, chunk) : chunks_.whole(list, chunk);
  };
  std::vector<PieceState> pieces;
  for (const ChunkPiece& piece : shape.pieces) {
    PieceState state;
    state.tensor = piece.tensor;
    state.weight = part_of(list_of(ChunkList::kWeights), piece);
    if (shape.split) state.low = part_of(list_of(ChunkList::kLow), piece);
    state.gradient = part_of(gradient, piece);
    state.first_moment = part_of(list_of(ChunkList::kFirstMoment), piece);
    if (chunks_.moments().count > 1) {
      state.second_moment = part_of(list_of(ChunkList::kSecondMoment), piece);
    }
    pieces.push_back(std::move(state));
  }
  return pieces;
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
  Stream& stream = lane(action.lane);
  char* fixed = static_cast<char*>(fixed_.data());
  char* staging = static_cast<char*>(staging_.data());
  for (const int other : action.waits) stream.wait(events_[static_cast<size_t>(other)]);
  // These have not been enqueued again yet: their events are those of the step before.
  for (const int other : action.carried) stream.wait(events_[static_cast<size_t>(other)]);
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
    case Action::Kind::kSend:
      enqueue_copy(action, stream);
      break;
    case Action::Kind::kOutputs:
      stream.copy(staging, fixed + trace_.fixed.loss, trace_.access.output_bytes,
                  CopyDirection::kToHost);
      break;
    case Action::Kind::kEarlyStep:
      // A checkpoint may still read the state that the last early step has left there.
      if (!chunks_.try_before_changing_twin(action.target, stream)) break;
      enqueue_early(action.target, *step);
      early_[static_cast<size_t>(action.target)] = index;
      break;
    case Action::Kind::kDeviceStep:
    case Action::Kind::kHostStep:
      if (step != nullptr && *step) enqueue_step(action.target, stream, *step);
      break;
  }
  if (command.awaited) events_[static_cast<size_t>(index)] = stream.record();
}

void StepExecutor::enqueue_step(int chunk, Stream& stream, const PieceStep& step) {
  kill_point(FaultSite::kStepChunk);
  chunks_.before_change(chunk, stream);
  if (chunks_.any_on_disk(chunk)) return enqueue_paged_step(chunk, stream, step);
  if (measure_) stream.start_timer();
  for (const PieceState& piece : pieces_of(chunk, StateOf::kHome)) step(stream, piece);
  if (measure_) stream.stop_timer(update_seconds_[static_cast<size_t>(chunk)]);
}

// What is timed is the work, not the wait for the disk before it.
void StepExecutor::enqueue_paged_step(int chunk, Stream& stream, const PieceStep& step) {
  const ChunkShape& shape = chunks_.layout().chunks[static_cast<size_t>(chunk)];
  lanes_.pages->step(chunk, stream, [&](const PageOfChunk& page) {
    if (measure_) stream.start_timer();
    for (const ChunkPiece& piece : shape.pieces) {
      const int64_t first = std::max(piece.offset, page.first);
      const int64_t end = std::min(piece.offset + piece.elements, page.first + page.count);
      if (first < end) step(stream, part_of_page(page, piece.tensor, first, end - first));
    }
    if (measure_) stream.stop_timer(page_seconds_.emplace_back(chunk, 0.0).second);
  });
}

// The state is copied block by block, each of which is stepped while it is in the caches.
void StepExecutor::enqueue_early(int chunk, const PieceStep& step) {
  constexpr int64_t kBlock = int64_t{1} << 20;  // elements
  const std::vector<PieceState> from = pieces_of(chunk, StateOf::kHome);
  const std::vector<PieceState> to = pieces_of(chunk, StateOf::kTwin);
  for (size_t p = 0; p < from.size(); ++p) {
    const int64_t elements = from[p].gradient.elements();
    for (int64_t first = 0; first < elements; first += kBlock) {
      const int64_t count = std::min(kBlock, elements - first);
      const PieceState block = part_of(to[p], first, count);
      lanes_.host.enqueue([source = part_of(from[p], first, count), block](ThreadPool& pool) {
        copy_state(pool, source, block);
      });
      step(lanes_.host, block);
    }
  }
}

// Of a chunk that was stepped early: whoever waits for its step waits for that. Whether nothing is
// left to do.
bool StepExecutor::take_early(int action, bool stands) {
  const int chunk = plan_.actions[static_cast<size_t>(action)].target;
  const int early = std::exchange(early_[static_cast<size_t>(chunk)], -1);
  if (early < 0) return false;
  events_[static_cast<size_t>(action)] = std::move(events_[static_cast<size_t>(early)]);
  if (stands) chunks_.flip(chunk);
  return stands;
}

void StepExecutor::synchronize() {
  lanes_.compute.synchronize();
  lanes_.transfers.synchronize();
  lanes_.host.synchronize();
  if (lanes_.pages != nullptr) lanes_.pages->synchronize();
}

void StepExecutor::check_host() {
  lanes_.host.check();
  if (lanes_.pages != nullptr) lanes_.pages->check();
}

void StepExecutor::run(std::span<const MicroBatch> batches, double loss_scale,
                       const std::function<uint64_t(int64_t micro)>& random_key, bool measure,
                       const PieceStep& early) {
  loss_scale_ = loss_scale;
  random_key_ = random_key;
  measure_ = measure;
  copy_inputs(batches);
  try {
    if (!warm_) bring_first();
    warm_ = false;
    int outputs = 0;
    for (int i = 0; i < plan_.update; ++i) {
      const Action::Kind kind = plan_.actions[static_cast<size_t>(i)].kind;
      if (kind == Action::Kind::kOutputs) outputs = i;
      if (kind != Action::Kind::kEarlyStep || early) enqueue(i, &early);
    }
    events_[static_cast<size_t>(outputs)].synchronize();
    lanes_.compute.synchronize();
    lanes_.transfers.to_device().synchronize();
    lanes_.transfers.to_host().check();
    check_host();
    if (!plan_.overlap) synchronize();
  } catch (...) {
    drain();
    throw;
  }
  measure_ = false;
}

// What a step finds in place where the step before was this plan's.
void StepExecutor::bring_first() {
  synchronize();
  early_.assign(early_.size(), -1);
  for (int i = plan_.next; i < static_cast<int>(plan_.actions.size()); ++i) {
    enqueue_copy(plan_.actions[static_cast<size_t>(i)], lanes_.transfers.to_device());
  }
  lanes_.transfers.to_device().synchronize();
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

void StepExecutor::update(const PieceStep& step, bool measure, bool early_stands) {
  measure_ = measure;
  const bool taken = static_cast<bool>(step);
  try {
    for (int i = plan_.update; i < static_cast<int>(plan_.actions.size()); ++i) {
      const bool host = plan_.actions[static_cast<size_t>(i)].kind == Action::Kind::kHostStep;
      if (host && (take_early(i, taken && early_stands) || !taken)) continue;
      enqueue(i, &step);
    }
    lanes_.compute.synchronize();
    lanes_.transfers.to_host().synchronize();
    check_host();
    if (!plan_.overlap || measure) synchronize();
  } catch (...) {
    drain();
    throw;
  }
  measure_ = false;
  warm_ = true;
  if (!page_seconds_.empty()) sum_page_seconds();
}

void StepExecutor::sum_page_seconds() {
  for (const auto& [chunk, seconds] : page_seconds_)
    update_seconds_[static_cast<size_t>(chunk)] = 0;
  for (const auto& [chunk, seconds] : page_seconds_) {
    update_seconds_[static_cast<size_t>(chunk)] += seconds;
  }
  page_seconds_.clear();
}

void StepExecutor::drain() noexcept {
  const auto wait_for = [](auto& work) {
    try {
      work.synchronize();
    } catch (...) {  // NOLINT(bugprone-empty-catch): the first error is on its way to the caller
    }
  };
  wait_for(lanes_.compute);
  wait_for(lanes_.host);
  wait_for(lanes_.transfers.to_device());
  wait_for(lanes_.transfers.to_host());
  if (lanes_.pages != nullptr) wait_for(*lanes_.pages);
}

}  // namespace hetmem
