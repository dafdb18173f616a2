#include "runtime/memory_plan.h"

#include <algorithm>

#include "core/error.h"
#include "planner/offsets.h"

namespace hetmem {
namespace {

constexpr int64_t kTensorAlignment = 64;

int64_t rounded(int64_t bytes, int64_t alignment) {
  return (bytes + alignment - 1) / alignment * alignment;
}

void append(BlockLayout& layout, int64_t bytes) {
  layout.offsets.push_back(layout.bytes);
  layout.bytes += rounded(bytes, kTensorAlignment);
}

bool is_pooled(const Program& program, ValueId id) {
  const ValueKind kind = program.value(id).kind;
  return kind == ValueKind::kSaved || kind == ValueKind::kTemporary;
}

ValueId root_of(const Program& program, ValueId id) {
  const ValueId root = program.storage_of[static_cast<size_t>(id)];
  return root == kNoValue ? id : root;
}

// The pool's bytes by kind: at the step with the most alive, what each kind has there; what
// fragments leave unused counts as temporary.
BytesByKind split_pool(const std::vector<PlannedInterval>& intervals,
                       const std::vector<MemoryKind>& kinds, const OffsetPlan& plan, int steps) {
  std::vector<int64_t> change(static_cast<size_t>(steps) + 1, 0);
  for (const PlannedInterval& interval : intervals) {
    change[static_cast<size_t>(interval.first)] += interval.bytes;
    change[static_cast<size_t>(interval.last) + 1] -= interval.bytes;
  }
  int fullest = 0;
  int64_t alive = 0;
  int64_t most = -1;
  for (int step = 0; step < steps; ++step) {
    alive += change[static_cast<size_t>(step)];
    if (alive > most) {
      most = alive;
      fullest = step;
    }
  }
  BytesByKind bytes{};
  int64_t sum = 0;
  for (size_t i = 0; i < intervals.size(); ++i) {
    if (intervals[i].first > fullest || intervals[i].last < fullest) continue;
    bytes[static_cast<size_t>(kinds[i])] += intervals[i].bytes;
    sum += intervals[i].bytes;
  }
  bytes[static_cast<size_t>(MemoryKind::kActivationsTemporary)] += plan.pool_bytes - sum;
  return bytes;
}

void plan_pool(const Program& program, MemoryPlan& memory) {
  std::vector<PlannedInterval> intervals;
  std::vector<MemoryKind> kinds;
  std::vector<int> owner_of_value(program.values.size(), -1);
  std::vector<int> owner_of_step(program.steps.size(), -1);
  const auto add = [&](int64_t bytes, int first, int last, MemoryKind kind) {
    intervals.push_back({rounded(std::max<int64_t>(bytes, 1), kPlanAlignment), first, last});
    kinds.push_back(kind);
    return static_cast<int>(intervals.size()) - 1;
  };
  for (ValueId id = 0; id < static_cast<ValueId>(program.values.size()); ++id) {
    const Lifetime& life = program.lifetimes[static_cast<size_t>(id)];
    if (!is_pooled(program, id) || root_of(program, id) != id || life.first < 0) continue;
    owner_of_value[static_cast<size_t>(id)] =
        add(program.value(id).bytes(), life.first, life.last,
            program.value(id).kind == ValueKind::kSaved ? MemoryKind::kActivationsSaved
                                                        : MemoryKind::kActivationsTemporary);
  }
  for (int step = 0; step < static_cast<int>(program.steps.size()); ++step) {
    const int64_t bytes = program.steps[static_cast<size_t>(step)].workspace_bytes;
    if (bytes > 0) {
      owner_of_step[static_cast<size_t>(step)] = add(bytes, step, step, MemoryKind::kWorkspace);
    }
  }
  const OffsetPlan plan = assign_offsets(intervals);
  const auto offset_of = [&](int owner) {
    return owner < 0 ? int64_t{-1} : plan.offsets[static_cast<size_t>(owner)];
  };
  for (ValueId id = 0; id < static_cast<ValueId>(program.values.size()); ++id) {
    const ValueId root = is_pooled(program, id) ? root_of(program, id) : id;
    memory.pool_offsets.push_back(offset_of(owner_of_value[static_cast<size_t>(root)]));
  }
  for (const int owner : owner_of_step) memory.workspace_offsets.push_back(offset_of(owner));
  memory.pool = split_pool(intervals, kinds, plan, static_cast<int>(program.steps.size()));
  memory.pool_lower_bound = plan.lower_bound;
}

}  // namespace

BytesByKind MemoryPlan::bytes() const {
  BytesByKind sum = pool;
  sum[static_cast<size_t>(MemoryKind::kWeights)] += weights.bytes;
  sum[static_cast<size_t>(MemoryKind::kStaging)] += inputs.bytes;
  return sum;
}

MemoryPlan plan_memory(const Program& program) {
  MemoryPlan memory;
  for (const ValueId id : program.weights) append(memory.weights, program.value(id).bytes());
  for (const Value& value : program.values) {
    const bool held = value.kind == ValueKind::kInput || value.kind == ValueKind::kConstant ||
                      value.kind == ValueKind::kLoss;
    append(memory.inputs, held ? value.bytes() : 0);
  }
  plan_pool(program, memory);
  return memory;
}

}  // namespace hetmem
