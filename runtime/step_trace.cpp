#include "runtime/step_trace.h"

#include <algorithm>
#include <map>

#include "chunk_manager/chunk_home.h"
#include "core/error.h"
#include "ops/ops.h"
#include "planner/offsets.h"

namespace hetmem {
namespace {

constexpr int64_t kFixedAlignment = 64;

bool is_pooled(const Value& value) {
  return value.kind == ValueKind::kSaved || value.kind == ValueKind::kTemporary;
}

ValueId root_of(const Program& program, ValueId id) {
  const ValueId root = program.storage_of[static_cast<size_t>(id)];
  return root == kNoValue ? id : root;
}

bool is_head(OpKind kind) { return kind == OpKind::kHeadLoss || kind == OpKind::kHeadLossTrain; }

// The table that a node takes in blocks of rows (its weight or the weight of its gradient).
ValueId table_of(const Node& node) {
  switch (node.op) {
    case OpKind::kEmbedding:
    case OpKind::kHeadLoss:
    case OpKind::kHeadLossTrain:
      return node.inputs[1];
    case OpKind::kEmbeddingBackward:
      return node.outputs[0];
    default:
      return kNoValue;
  }
}

class Tracer {
 public:
  Tracer(const Program& program, const ChunkLayout& layout, const StepTraceOptions& options,
         const MachineRates& rates)
      : program_(program), layout_(layout), options_(options), rates_(rates) {}

  StepTrace run() {
    HETMEM_ASSERT(options_.group >= 1 && options_.micro_batches >= 1);
    for (int step = 0; step < static_cast<int>(program_.steps.size()); ++step) {
      parts_.push_back(find_parts(step));
    }
    lay_out_ops();
    insert_norms();
    add_buffers();
    add_chunks();
    lay_out_fixed();
    result_.access.group = options_.group;
    result_.access.host_shares_compute = rates_.host_shares_compute;
    return std::move(result_);
  }

 private:
  const Node& node(int step) const { return program_.steps[static_cast<size_t>(step)].node; }

  const std::vector<OpPart>& parts_of(int step) const { return parts_[static_cast<size_t>(step)]; }

  std::vector<OpPart> find_parts(int step) const {
    const Node& at = node(step);
    const ValueId table = table_of(at);
    const int weight = table == kNoValue ? -1 : weight_index(program_, table);
    if (weight < 0) return {OpPart{}};
    std::vector<Shape> shapes;
    for (const ValueId id : at.inputs) shapes.push_back(program_.value(id).shape);
    return ops::parts(options_.device, at.op, at.params, shapes, program_.value(table).shape[0],
                      layout_.block_rows[static_cast<size_t>(weight)]);
  }

  // A group of micro-batches passes one step before the next step is begun. Gradients of embeddings
  // come last of all, in the order of the micro-batches: the order of the sums in a tied table is
  // then the same for every group.
  void lay_out_ops() {
    const int steps = static_cast<int>(program_.steps.size());
    for (int64_t from = 0; from < options_.micro_batches; from += options_.group) {
      const int64_t to = std::min(options_.micro_batches, from + options_.group);
      for (int step = 0; step < steps; ++step) {
        if (node(step).op != OpKind::kEmbeddingBackward) add_step(step, from, to);
      }
      group_ends_.push_back(static_cast<int>(result_.ops.size()));
    }
    for (int step = 0; step < steps; ++step) {
      if (node(step).op == OpKind::kEmbeddingBackward) add_step(step, 0, options_.micro_batches);
    }
  }

  void add_step(int step, int64_t from, int64_t to) {
    const std::vector<OpPart>& parts = parts_of(step);
    if (is_head(node(step).op)) {  // its logits are there for one micro-batch at a time
      for (int64_t micro = from; micro < to; ++micro) {
        for (const OpPart& part : parts) result_.ops.push_back({step, micro, part, -1});
      }
      return;
    }
    for (const OpPart& part : parts) {
      for (int64_t micro = from; micro < to; ++micro) {
        result_.ops.push_back({step, micro, part, -1});
      }
    }
  }

  // Calls visit(piece, is_read) for each piece of weight and gradient of an op.
  template <typename Visit>
  void visit_pieces(const OpInstance& op, const Visit& visit) const {
    if (op.step < 0) return;
    const Node& at = node(op.step);
    for (const bool read : {true, false}) {
      for (const ValueId id : read ? at.inputs : at.outputs) {
        if (program_.value(id).kind != (read ? ValueKind::kWeight : ValueKind::kGradient)) continue;
        for (const PieceOf& piece : pieces_of_operand(program_, layout_, op, id, !read)) {
          visit(piece, read);
        }
      }
    }
  }

  // The norm of a chunk's gradients comes when the last of them is complete.
  void insert_norms() {
    std::vector<int> last_write(layout_.chunks.size(), -1);
    for (size_t i = 0; i < result_.ops.size(); ++i) {
      visit_pieces(result_.ops[i], [&](const PieceOf& piece, bool read) {
        if (!read) last_write[static_cast<size_t>(piece.chunk)] = static_cast<int>(i);
      });
    }
    std::multimap<int, int> chunks_after;
    for (size_t c = 0; c < last_write.size(); ++c) {
      if (last_write[c] >= 0) chunks_after.emplace(last_write[c], static_cast<int>(c));
    }
    std::vector<OpInstance> all;
    std::vector<int> ends;
    for (size_t i = 0; i < result_.ops.size(); ++i) {
      while (ends.size() < group_ends_.size() && group_ends_[ends.size()] == static_cast<int>(i)) {
        ends.push_back(static_cast<int>(all.size()));
      }
      all.push_back(result_.ops[i]);
      const auto [begin, end] = chunks_after.equal_range(static_cast<int>(i));
      for (auto at = begin; at != end; ++at) all.push_back({-1, 0, OpPart{}, at->second});
    }
    while (ends.size() < group_ends_.size()) ends.push_back(static_cast<int>(all.size()));
    group_ends_ = std::move(ends);
    result_.ops = std::move(all);
    int next = 0;
    for (const ChunkShape& chunk : layout_.chunks) {
      result_.norm_slots.emplace_back();
      for (size_t p = 0; p < chunk.pieces.size(); ++p) result_.norm_slots.back().push_back(next++);
    }
    for (const OpInstance& op : result_.ops) result_.access.op_seconds.push_back(seconds_of(op));
  }

  double seconds_of(const OpInstance& op) const {
    if (op.step < 0) {
      return static_cast<double>(layout_.chunks[static_cast<size_t>(op.chunk)].elements) * 4 /
             rates_.memory_bandwidth;
    }
    const double whole = step_seconds(program_.steps[static_cast<size_t>(op.step)], rates_);
    return whole / static_cast<double>(parts_of(op.step).size());
  }

  // The first and last op of a step for a micro-batch.
  OpRun ops_of(int step, int64_t micro) const {
    const auto found = runs_.find({step, micro});
    HETMEM_ASSERT(found != runs_.end());
    return found->second;
  }

  void add_buffers() {
    for (int i = 0; i < static_cast<int>(result_.ops.size()); ++i) {
      const OpInstance& op = result_.ops[static_cast<size_t>(i)];
      if (op.step < 0) continue;
      const auto [run, fresh] = runs_.try_emplace({op.step, op.micro}, OpRun{i, i});
      run->second.last = i;
    }
    auto& buffers = result_.access.buffers;
    for (int64_t micro = 0; micro < options_.micro_batches; ++micro) {
      std::vector<int> of_value(program_.values.size(), -1);
      for (ValueId id = 0; id < static_cast<ValueId>(program_.values.size()); ++id) {
        const Lifetime& life = program_.lifetimes[static_cast<size_t>(id)];
        const Value& value = program_.value(id);
        if (!is_pooled(value) || root_of(program_, id) != id || life.first < 0) continue;
        of_value[static_cast<size_t>(id)] = static_cast<int>(buffers.size());
        buffers.push_back({std::max<int64_t>(1, value.bytes()),
                           value.kind == ValueKind::kSaved ? MemoryKind::kActivationsSaved
                                                           : MemoryKind::kActivationsTemporary,
                           ops_of(life.first, micro).first, ops_of(life.last, micro).last});
      }
      for (ValueId id = 0; id < static_cast<ValueId>(program_.values.size()); ++id) {
        if (!is_pooled(program_.value(id))) continue;
        of_value[static_cast<size_t>(id)] = of_value[static_cast<size_t>(root_of(program_, id))];
      }
      result_.buffers.push_back(std::move(of_value));
    }
    add_workspaces();
  }

  void add_workspaces() {
    std::map<std::pair<int, int64_t>, int> of_head;  // one for all parts: logits stay in it
    for (int i = 0; i < static_cast<int>(result_.ops.size()); ++i) {
      const OpInstance& op = result_.ops[static_cast<size_t>(i)];
      const int64_t bytes =
          op.step < 0 ? 0 : program_.steps[static_cast<size_t>(op.step)].workspace_bytes;
      int buffer = -1;
      if (bytes > 0) {
        const bool head = is_head(node(op.step).op);
        const auto known = of_head.find({op.step, op.micro});
        if (head && known != of_head.end()) {
          buffer = known->second;
        } else {
          buffer = static_cast<int>(result_.access.buffers.size());
          const OpRun run = head ? ops_of(op.step, op.micro) : OpRun{i, i};
          result_.access.buffers.push_back({bytes, MemoryKind::kWorkspace, run.first, run.last});
          if (head) of_head[{op.step, op.micro}] = buffer;
        }
      }
      result_.workspaces.push_back(buffer);
    }
  }

  // Runs of gradients, which may leave the device between them: one for each group, one for what
  // comes after all groups, and one for each block of tokens of a head.
  bool begins_run(int i) const {
    const OpInstance& op = result_.ops[static_cast<size_t>(i)];
    const bool head = is_head(node(op.step).op) && op.part.rows > 0;
    const bool block = head && op.part.first_row == 0 && op.part.stage == HeadStage::kLogits;
    return block || std::binary_search(group_ends_.begin(), group_ends_.end(), i);
  }

  int64_t trailers(const ChunkShape& shape, const ChunkPlaces& places, int64_t bytes) const {
    return ChunkHome::disk_bytes(shape, options_.moments, {false, places}) - bytes;
  }

  void add_chunks() {
    auto& chunks = result_.access.chunks;
    for (const ChunkShape& shape : layout_.chunks) {
      TraceChunk chunk;
      chunk.weight_bytes = shape.weight_bytes();
      // Optimizer state is there during evaluation, too.
      chunk.optimizer_bytes = shape.low_bytes() + shape.moment_bytes(options_.moments);
      chunk.weight_trailers = trailers(shape, {.weights_on_disk = true}, chunk.weight_bytes);
      chunk.optimizer_trailers =
          trailers(shape, {.optimizer_on_disk = true}, chunk.optimizer_bytes);
      if (program_.training && shape.trained) {
        chunk.gradient_bytes = shape.list_bytes();
        chunk.gradient_trailers = trailers(shape, {.gradient_on_disk = true}, chunk.gradient_bytes);
        // A step reads and writes weights and moments, and reads gradients. One into other memory
        // also brings what it writes there into the caches.
        const auto state = static_cast<double>(chunk.state_bytes());
        const double moved = 2 * state + static_cast<double>(chunk.gradient_bytes);
        chunk.device_step_seconds = moved / rates_.memory_bandwidth;
        chunk.host_step_seconds =
            moved / (rates_.host_bandwidth > 0 ? rates_.host_bandwidth : rates_.memory_bandwidth);
        chunk.early_step_seconds = chunk.host_step_seconds * (moved + state) / moved;
      }
      chunks.push_back(std::move(chunk));
    }
    struct Uses {
      int last_read = -1;
      int first_write = -1;
      bool head = false;  // read and written by one op that may write in place
    };
    std::map<std::pair<int, int>, Uses> uses;  // by chunk and piece
    std::vector<int> run_of(chunks.size(), -1);
    int run = -1;
    for (int i = 0; i < static_cast<int>(result_.ops.size()); ++i) {
      const OpInstance& op = result_.ops[static_cast<size_t>(i)];
      if (op.step < 0) {
        chunks[static_cast<size_t>(op.chunk)].writes.back().last = i;
        continue;
      }
      if (i == 0 || begins_run(i)) ++run;
      visit_pieces(op, [&](const PieceOf& piece, bool read) {
        TraceChunk& chunk = chunks[static_cast<size_t>(piece.chunk)];
        Uses& use = uses[{piece.chunk, piece.piece}];
        if (read) {
          if (chunk.reads.empty() || chunk.reads.back() != i) chunk.reads.push_back(i);
          use.last_read = i;
          return;
        }
        if (use.first_write < 0) use.first_write = i;
        if (i == use.last_read) use.head = is_head(node(op.step).op);
        if (run_of[static_cast<size_t>(piece.chunk)] == run) {
          chunk.writes.back().last = i;
        } else {
          chunk.writes.push_back({i, i});
          run_of[static_cast<size_t>(piece.chunk)] = run;
        }
      });
    }
    for (TraceChunk& chunk : chunks) {
      chunk.in_place = chunk.gradient_bytes == chunk.weight_bytes && !chunk.writes.empty();
    }
    for (const auto& [where, use] : uses) {
      const bool after =
          use.first_write > use.last_read || (use.first_write == use.last_read && use.head);
      if (!after) chunks[static_cast<size_t>(where.first)].in_place = false;
    }
  }

  void lay_out_fixed() {
    FixedLayout& fixed = result_.fixed;
    const auto take = [&](int64_t bytes) {
      const int64_t at = fixed.bytes;
      fixed.bytes += (bytes + kFixedAlignment - 1) / kFixedAlignment * kFixedAlignment;
      return at;
    };
    int64_t micro_batch = 0;
    for (const Value& value : program_.values) {
      fixed.constants.push_back(value.kind == ValueKind::kConstant ? take(value.bytes()) : -1);
      if (value.kind == ValueKind::kInput) micro_batch += value.bytes();
    }
    int64_t norms = 0;
    if (program_.training) {
      for (const auto& slots : result_.norm_slots) norms += static_cast<int64_t>(slots.size());
    }
    constexpr int64_t kDouble = 8;
    // Loss and norms side by side: one copy takes them.
    fixed.loss = take((1 + norms) * kDouble);
    fixed.norms = fixed.loss + kDouble;
    fixed.micro_batch_bytes = micro_batch;
    fixed.tokens = take(micro_batch * options_.micro_batches);
    result_.access.fixed_bytes = fixed.bytes;
    result_.access.input_bytes = micro_batch * options_.micro_batches + kDouble;
    result_.access.output_bytes = (1 + norms) * kDouble;
  }

  const Program& program_;
  const ChunkLayout& layout_;
  const StepTraceOptions& options_;
  const MachineRates& rates_;
  StepTrace result_;
  std::vector<std::vector<OpPart>> parts_;         // by step
  std::vector<int> group_ends_;                    // ops
  std::map<std::pair<int, int64_t>, OpRun> runs_;  // by step and micro-batch
};

}  // namespace

StepTrace trace_step(const Program& program, const ChunkLayout& layout,
                     const StepTraceOptions& options, const MachineRates& rates) {
  return Tracer(program, layout, options, rates).run();
}

int weight_index(const Program& program, ValueId value) {
  const Value& at = program.value(value);
  const ValueId weight = at.kind == ValueKind::kGradient ? at.gradient_of : value;
  if (program.value(weight).kind != ValueKind::kWeight) return -1;
  // Weights are among the first values of a graph, in their order.
  const auto found = std::lower_bound(program.weights.begin(), program.weights.end(), weight);
  return static_cast<int>(found - program.weights.begin());
}

std::vector<PieceOf> pieces_of_operand(const Program& program, const ChunkLayout& layout,
                                       const OpInstance& op, ValueId operand, bool written) {
  const Node& node = program.steps[static_cast<size_t>(op.step)].node;
  const int weight = weight_index(program, operand);
  HETMEM_ASSERT(weight >= 0);
  const std::vector<PieceOf>& all = layout.pieces[static_cast<size_t>(weight)];
  if (op.part.rows == 0) return all;
  // Only the gradients stage of a head writes them, and its loss stage reads no weight.
  const HeadStage stage = op.part.stage;
  if (is_head(node.op) && (written ? stage != HeadStage::kGradients : stage == HeadStage::kLoss)) {
    return {};
  }
  const ValueId table = table_of(node);
  if (weight != weight_index(program, table)) {
    // The gradient of positions is made with the first block of the table alone.
    return written && op.part.first_row > 0 ? std::vector<PieceOf>{} : all;
  }
  std::vector<PieceOf> found;
  for (const PieceOf& piece : all) {
    if (layout.piece(piece).first_row == op.part.first_row) found.push_back(piece);
  }
  return found;
}

ChunkLayout layout_of(const Program& program, DType moments) {
  std::vector<bool> table(program.weights.size(), false);
  std::vector<bool> other(program.weights.size(), false);
  for (const Step& step : program.steps) {
    const ValueId blocked = table_of(step.node);
    for (const ValueId id : step.node.inputs) {
      if (program.value(id).kind != ValueKind::kWeight) continue;
      (id == blocked ? table : other)[static_cast<size_t>(weight_index(program, id))] = true;
    }
  }
  std::vector<LayoutTensor> tensors;
  for (size_t i = 0; i < program.weights.size(); ++i) {
    const Value& value = program.value(program.weights[i]);
    const Shape& shape = value.shape;
    const bool vector = shape.rank() < 2;
    tensors.push_back({vector ? 1 : shape.rows(), vector ? shape.elements() : shape[-1],
                       table[i] && !other[i], !program.training || program.gradients[i] != kNoValue,
                       value.dtype == DType::kBFloat16});
  }
  return layout_chunks(tensors, moments);
}

}  // namespace hetmem
