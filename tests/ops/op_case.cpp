#include "op_case.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <map>
#include <memory>
#include <optional>

#include "core/dtype.h"
#include "core/philox.h"
#include "device/stream.h"
#include "device/thread_pool.h"
#include "ops/ops.h"
#include "ops/reference/reference.h"

namespace hetmem::testing_ops {
namespace {

template <typename Real>
struct Buffers {
  std::vector<std::vector<Real>> numbers;
  std::vector<std::vector<int32_t>> integers;
  std::vector<std::vector<uint16_t>> halves;
  OpCall call;
  double loss = 0;
};

std::vector<uint16_t> halves_of(const Operand& operand) {
  std::vector<uint16_t> halves;
  for (const double number : operand.numbers) {
    halves.push_back(bf16_from_float(static_cast<float>(number)));
  }
  return halves;
}

bool is_loss(const OpCase& op, size_t output) {
  return output == 0 && (op.kind == OpKind::kHeadLoss || op.kind == OpKind::kHeadLossTrain);
}

template <typename Real>
void fill(Buffers<Real>& buffers, const OpCase& op, DType dtype, MemorySpace space) {
  buffers.call.kind = op.kind;
  buffers.call.params = op.params;
  buffers.call.runtime = op.runtime;
  buffers.numbers.reserve(op.inputs.size() + op.outputs.size());
  buffers.integers.reserve(op.inputs.size());
  buffers.halves.reserve(op.inputs.size());
  for (const Operand& operand : op.inputs) {
    if (!operand.integers.empty()) {
      buffers.integers.push_back(operand.integers);
      buffers.call.inputs.emplace_back(buffers.integers.back().data(), DType::kInt32, operand.shape,
                                       space);
      continue;
    }
    if (operand.bf16 && dtype == DType::kFloat32) {
      buffers.halves.push_back(halves_of(operand));
      buffers.call.inputs.emplace_back(buffers.halves.back().data(), DType::kBFloat16,
                                       operand.shape, space);
      continue;
    }
    buffers.numbers.emplace_back(operand.numbers.begin(), operand.numbers.end());
    buffers.call.inputs.emplace_back(buffers.numbers.back().data(), dtype, operand.shape, space);
  }
  for (size_t i = 0; i < op.outputs.size(); ++i) {
    const std::vector<double> start = before(op, i);
    if (is_loss(op, i)) {
      buffers.loss = start[0];
      buffers.call.outputs.emplace_back(&buffers.loss, DType::kFloat64, op.outputs[i], space);
      continue;
    }
    buffers.numbers.emplace_back(start.begin(), start.end());
    buffers.call.outputs.emplace_back(buffers.numbers.back().data(), dtype, op.outputs[i], space);
  }
}

template <typename Real>
Results results_of(const Buffers<Real>& buffers, const OpCase& op) {
  Results results;
  for (size_t i = 0; i < op.outputs.size(); ++i) {
    const TensorView& view = buffers.call.outputs[i];
    if (is_loss(op, i)) {
      results.push_back({buffers.loss});
    } else {
      results.emplace_back(view.as<Real>(), view.as<Real>() + view.elements());
    }
  }
  return results;
}

std::vector<Shape> input_shapes(const OpCall& call) {
  std::vector<Shape> shapes;
  for (const TensorView& view : call.inputs) shapes.push_back(view.shape);
  return shapes;
}

// What a call needs, aligned.
class Workspace {
 public:
  Workspace(const Backend& backend, const OpCall& call)
      : bytes_(backend.workspace_bytes(call.kind, call.params, input_shapes(call))),
        memory_(static_cast<size_t>(bytes_) + kAlignment) {}
  TensorView view() {
    void* at = memory_.data();
    size_t room = memory_.size();
    std::align(kAlignment, static_cast<size_t>(bytes_), at, room);
    return {at, DType::kUint8, Shape{bytes_}, MemorySpace::kDevice};
  }

 private:
  static constexpr size_t kAlignment = 64;
  int64_t bytes_;
  std::vector<std::byte> memory_;
};

bool is_head(const OpCase& op) {
  return op.kind == OpKind::kHeadLoss || op.kind == OpKind::kHeadLossTrain;
}
// Which input and which output of a part are a block; kNone: none.
constexpr size_t kNone = 9;
size_t block_input(const OpCase& op, const OpPart& part) {
  const bool needs = !is_head(op) || part.stage != HeadStage::kLoss;
  return op.kind != OpKind::kEmbeddingBackward && needs ? 1 : kNone;
}
size_t block_output(const OpCase& op, const OpPart& part) {
  if (op.kind == OpKind::kEmbeddingBackward) return 0;
  return op.outputs.size() > 2 && part.stage == HeadStage::kGradients ? 2 : kNone;
}

// A block of rows in memory of its own size, or of `capacity` bytes where that is more: what is
// read or written beside it is found.
class Block {
 public:
  Block(const TensorView& whole, const OpPart& part, int64_t capacity = 0)
      : view_(nullptr, whole.dtype, Shape{part.rows, whole.shape[1]}, whole.space),
        begin_(static_cast<std::byte*>(whole.data) +
               part.first_row * whole.shape[1] * size_of(whole.dtype)),
        rows_(begin_, begin_ + view_.bytes()) {
    if (capacity > view_.bytes()) rows_.resize(static_cast<size_t>(capacity));
    view_.data = rows_.data();
  }
  const TensorView& view() const { return view_; }
  // Puts rows in the place of the block in the whole tensor.
  void write_back(const TensorView& rows) const {
    std::copy_n(static_cast<const std::byte*>(rows.data), rows.bytes(), begin_);
  }

 private:
  TensorView view_;
  std::byte* begin_;
  std::vector<std::byte> rows_;
};

template <typename Launch>
void run_parts(const OpCall& whole, const std::vector<OpPart>& parts, const OpCase& op,
               const PartsRun& run, const Launch& launch) {
  for (const OpPart& part : parts) {
    OpCall call = whole;
    call.part = part;
    // What a stage does not need is not there.
    if (is_head(op)) call.inputs[1] = TensorView{};
    if (is_head(op) && op.outputs.size() > 2) call.outputs[2] = TensorView{};
    const size_t input = block_input(op, part);
    const size_t output = block_output(op, part);
    std::optional<Block> weight;
    std::optional<Block> gradient;
    if (output != kNone) {
      call.outputs[output] = gradient.emplace(whole.outputs[output], part).view();
    }
    if (input != kNone) {
      const bool over = run.gradient_over_weight && gradient;
      weight.emplace(whole.inputs[input], part, over ? gradient->view().bytes() : 0);
      call.inputs[input] = weight->view();
      if (over) call.outputs[output].data = weight->view().data;
    }
    launch(call);
    if (output != kNone) gradient->write_back(call.outputs[output]);
  }
}

// The CPU backend, on a stream of its own.
class Cpu {
 public:
  explicit Cpu(int threads) : pool_(threads) {}
  Backend backend() {
    return {"cpu",
            [this](const OpCall& call) {
              CpuStream stream("compute", pool_);
              ops::launch(stream, call);
              stream.synchronize();
            },
            [](OpKind kind, const OpParams& params, const std::vector<Shape>& inputs) {
              return ops::workspace_bytes(DeviceKind::kCpu, kind, params, inputs);
            },
            [](OpKind kind, const OpParams& params, const std::vector<Shape>& inputs,
               int64_t weight_rows, int64_t block_rows) {
              return ops::parts(DeviceKind::kCpu, kind, params, inputs, weight_rows, block_rows);
            }};
  }

 private:
  ThreadPool pool_;
};

Operand operand_of(const Shape& shape, std::vector<double> numbers) { return {shape, numbers, {}}; }

OpCase backward_case(const OpCase& forward, OpKind kind, const OpParams& params,
                     std::vector<Operand> inputs, std::vector<Shape> outputs) {
  return {forward.name + "_" + std::string(name_of(kind)),
          kind,
          params,
          std::move(inputs),
          std::move(outputs),
          forward.runtime};
}

std::vector<Backward> linear_backward(const OpCase& f, const Operand& dy) {
  auto params = std::get<LinearParams>(f.params);
  std::vector<Backward> all;
  std::vector<Shape> outputs{f.inputs[1].shape};
  std::vector<int> of{1};
  if (params.has_bias) {
    outputs.push_back(f.inputs[2].shape);
    of.push_back(2);
  }
  params.has_addend = false;
  all.push_back(
      {backward_case(f, OpKind::kLinearBackwardWeight, params, {f.inputs[0], dy}, outputs), of});
  params.has_bias = false;
  all.push_back({backward_case(f, OpKind::kLinearBackwardInput, params, {dy, f.inputs[1]},
                               {f.inputs[0].shape}),
                 {0}});
  return all;
}

}  // namespace

Operand normal(const Shape& shape, uint64_t stream, double deviation, double mean) {
  static std::map<uint64_t, std::vector<double>> draws;  // by stream, made once
  std::vector<double>& made = draws[stream];
  const auto count = static_cast<size_t>(shape.elements());
  while (made.size() < count) made.push_back(normal_pair(7, stream, made.size())[0]);
  Operand operand{shape, {}, {}};
  operand.numbers.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    operand.numbers.push_back(static_cast<float>(mean + deviation * made[i]));
  }
  return operand;
}

std::vector<double> before(const OpCase& op, size_t output) {
  const int64_t count = op.outputs[output].elements();
  if (is_loss(op, output)) return {3.25};
  const bool table = op.kind == OpKind::kEmbeddingBackward && output == 0 &&
                     std::get<EmbeddingParams>(op.params).accumulate_table;
  const bool added =
      op.runtime.accumulate && !(op.kind == OpKind::kHeadLossTrain && output == 1) &&
      !((op.kind == OpKind::kLayerNormBackward || op.kind == OpKind::kRmsNormBackward) &&
        output == 0);
  if (added || table) return normal(op.outputs[output], 90 + output).numbers;
  return std::vector<double>(static_cast<size_t>(count), std::numeric_limits<double>::quiet_NaN());
}

Results run_reference(const OpCase& op) {
  Buffers<double> buffers;
  fill(buffers, op, DType::kFloat64, MemorySpace::kHost);
  ops::reference::run(buffers.call);
  return results_of(buffers, op);
}

Results run_on(const Backend& backend, const OpCase& op, std::pair<int, int> in_place) {
  Buffers<float> buffers;
  fill(buffers, op, DType::kFloat32, MemorySpace::kDevice);
  OpCall& call = buffers.call;
  if (in_place.first >= 0) {
    call.outputs[static_cast<size_t>(in_place.second)].data =
        call.inputs[static_cast<size_t>(in_place.first)].data;
  }
  Workspace workspace(backend, call);
  call.workspace = workspace.view();
  backend.run(call);
  return results_of(buffers, op);
}

Results run_parts_on(const Backend& backend, const OpCase& op, const PartsRun& run) {
  Buffers<float> buffers;
  fill(buffers, op, DType::kFloat32, MemorySpace::kDevice);
  Workspace workspace(backend, buffers.call);
  buffers.call.workspace = workspace.view();
  const std::vector<OpPart> parts = backend.parts(op.kind, op.params, input_shapes(buffers.call),
                                                  run.weight_rows, run.block_rows);
  run_parts(buffers.call, parts, op, run, backend.run);
  return results_of(buffers, op);
}

Results run_cpu(const OpCase& op, int threads, std::pair<int, int> in_place) {
  Cpu cpu(threads);
  return run_on(cpu.backend(), op, in_place);
}

Results run_cpu_parts(const OpCase& op, const PartsRun& run) {
  Cpu cpu(run.threads);
  return run_parts_on(cpu.backend(), op, run);
}

Results run_reference_parts(const OpCase& op, const PartsRun& run) {
  Buffers<double> buffers;
  fill(buffers, op, DType::kFloat64, MemorySpace::kHost);
  std::vector<double> logits(static_cast<size_t>(op.inputs[0].shape.rows() * run.weight_rows));
  buffers.call.workspace = {logits.data(), DType::kFloat64,
                            Shape{static_cast<int64_t>(logits.size())}, MemorySpace::kHost};
  const std::vector<OpPart> parts =
      ops::parts(DeviceKind::kCpu, op.kind, op.params, input_shapes(buffers.call), run.weight_rows,
                 run.block_rows);
  run_parts(buffers.call, parts, op, run, ops::reference::run);
  return results_of(buffers, op);
}

std::vector<Backward> backward_of(const OpCase& f, const Results& results, const Operand& dy) {
  const auto& in = f.inputs;
  const auto saved = [&](size_t i) { return operand_of(f.outputs[i], results[i]); };
  switch (f.kind) {
    case OpKind::kEmbedding: {
      const bool positions = std::get<EmbeddingParams>(f.params).has_positions;
      std::vector<Shape> outputs{in[1].shape};
      if (positions) outputs.push_back(in[2].shape);
      return {{backward_case(f, OpKind::kEmbeddingBackward, f.params, {in[0], dy}, outputs),
               positions ? std::vector<int>{1, 2} : std::vector<int>{1}}};
    }
    case OpKind::kLinear:
      return linear_backward(f, dy);
    case OpKind::kLayerNorm:
      return {{backward_case(f, OpKind::kLayerNormBackward, f.params, {dy, in[0], in[1], saved(1)},
                             {in[0].shape, in[1].shape, in[1].shape}),
               {0, 1, 2}}};
    case OpKind::kRmsNorm:
      return {{backward_case(f, OpKind::kRmsNormBackward, f.params, {dy, in[0], in[1], saved(1)},
                             {in[0].shape, in[1].shape}),
               {0, 1}}};
    case OpKind::kRope: {
      auto params = std::get<RopeParams>(f.params);
      params.inverse = !params.inverse;
      return {{backward_case(f, OpKind::kRope, params, {dy, in[1]}, {in[0].shape}), {0}}};
    }
    case OpKind::kAttention: {
      std::vector<Operand> inputs = in;
      inputs.insert(inputs.end(), {saved(0), saved(1), dy});
      std::vector<Shape> outputs;
      std::vector<int> of;
      for (size_t i = 0; i < in.size(); ++i) {
        outputs.push_back(in[i].shape);
        of.push_back(static_cast<int>(i));
      }
      return {{backward_case(f, OpKind::kAttentionBackward, f.params, inputs, outputs), of}};
    }
    case OpKind::kGelu:
      return {{backward_case(f, OpKind::kGeluBackward, f.params, {dy, in[0]}, {in[0].shape}), {0}}};
    case OpKind::kSwiglu:
      return {{backward_case(f, OpKind::kSwigluBackward, f.params, {dy, in[0], in[1]},
                             {in[0].shape, in[1].shape}),
               {0, 1}}};
    case OpKind::kDropout:
      return {{backward_case(f, OpKind::kDropout, f.params, {dy}, {in[0].shape}), {0}}};
    case OpKind::kHeadLoss:
      return {{backward_case(f, OpKind::kHeadLossTrain, f.params, in,
                             {Shape{1}, in[0].shape, in[1].shape}),
               {-1, 0, 1}}};
    default:
      return {};  // kAdd hands dy on; the rest are backward ops themselves
  }
}

OpCase rounded(OpCase op) {
  for (Operand& operand : op.inputs) {
    for (double& number : operand.numbers) number = static_cast<float>(number);
  }
  return op;
}

OpCase with_bf16_operand(OpCase op, size_t input) {
  Operand& operand = op.inputs.at(input);
  operand.bf16 = true;
  for (double& number : operand.numbers) {
    number = static_cast<double>(float_from_bf16(bf16_from_float(static_cast<float>(number))));
  }
  return op;
}

}  // namespace hetmem::testing_ops
