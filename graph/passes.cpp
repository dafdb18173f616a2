#include "graph/passes.h"

#include <algorithm>
#include <map>

#include "core/error.h"
#include "graph/op_table.h"

namespace hetmem {
namespace {

bool is_pooled(const Value& value) {
  return value.kind == ValueKind::kSaved || value.kind == ValueKind::kTemporary;
}

// By value: how many nodes read it, and which node makes it (-1: none).
struct Uses {
  std::vector<int> readers;
  std::vector<int> producer;
};
Uses count_uses(const std::vector<Value>& values, const std::vector<Node>& nodes) {
  Uses uses{std::vector<int>(values.size(), 0), std::vector<int>(values.size(), -1)};
  for (size_t i = 0; i < nodes.size(); ++i) {
    for (const ValueId id : nodes[i].inputs) ++uses.readers[static_cast<size_t>(id)];
    for (const ValueId id : nodes[i].outputs) {
      uses.producer[static_cast<size_t>(id)] = static_cast<int>(i);
    }
  }
  return uses;
}

// The linear that `add` can ride on with operand `which` as the linear's output, or -1.
int linear_under(const Node& add, int which, const Uses& uses, const std::vector<Node>& nodes) {
  const auto y = static_cast<size_t>(add.inputs[static_cast<size_t>(which)]);
  const auto residual = static_cast<size_t>(add.inputs[static_cast<size_t>(1 - which)]);
  const int linear = uses.producer[y];
  if (linear < 0 || uses.readers[y] != 1 || uses.producer[residual] >= linear) return -1;
  const Node& node = nodes[static_cast<size_t>(linear)];
  if (node.op != OpKind::kLinear || std::get<LinearParams>(node.params).has_addend) return -1;
  return linear;
}

}  // namespace

void fuse_residual_adds(const std::vector<Value>& values, std::vector<Node>& nodes) {
  const Uses uses = count_uses(values, nodes);
  std::vector<bool> dropped(nodes.size(), false);
  for (size_t i = 0; i < nodes.size(); ++i) {
    const Node add = nodes[i];
    if (add.op != OpKind::kAdd) continue;
    for (const int which : {1, 0}) {
      const int linear = linear_under(add, which, uses, nodes);
      if (linear < 0) continue;
      Node& target = nodes[static_cast<size_t>(linear)];
      target.inputs.push_back(add.inputs[static_cast<size_t>(1 - which)]);
      std::get<LinearParams>(target.params).has_addend = true;
      target.outputs = add.outputs;
      dropped[i] = true;
      break;
    }
  }
  std::vector<Node> kept;
  for (size_t i = 0; i < nodes.size(); ++i) {
    if (!dropped[i]) kept.push_back(std::move(nodes[i]));
  }
  nodes = std::move(kept);
}

void remove_dead_nodes(const std::vector<Value>& values, std::vector<Node>& nodes) {
  std::vector<bool> live(values.size(), false);
  std::vector<Node> kept;
  for (auto node = nodes.rbegin(); node != nodes.rend(); ++node) {
    const bool needed = std::any_of(node->outputs.begin(), node->outputs.end(), [&](ValueId id) {
      const ValueKind kind = values[static_cast<size_t>(id)].kind;
      return kind == ValueKind::kLoss || kind == ValueKind::kGradient ||
             live[static_cast<size_t>(id)];
    });
    if (!needed) continue;
    for (const ValueId id : node->inputs) live[static_cast<size_t>(id)] = true;
    kept.push_back(std::move(*node));
  }
  std::reverse(kept.begin(), kept.end());
  nodes = std::move(kept);
}

void remake_cheap_values(std::vector<Value>& values, std::vector<Node>& nodes) {
  // By value: the first and the last backward node that reads it.
  std::vector<int> first(values.size(), -1);
  std::vector<int> last(values.size(), -1);
  for (size_t i = 0; i < nodes.size(); ++i) {
    if (nodes[i].phase != Phase::kBackward) continue;
    for (const ValueId id : nodes[i].inputs) {
      int& earliest = first[static_cast<size_t>(id)];
      if (earliest < 0) earliest = static_cast<int>(i);
      last[static_cast<size_t>(id)] = static_cast<int>(i);
    }
  }
  std::map<int, std::vector<Node>> before;  // nodes to insert, by the node that they go before
  for (const Node& node : nodes) {
    if (node.phase != Phase::kForward || !describe(node.op).remade) continue;
    const ValueId made = node.outputs[0];
    const int reader = first[static_cast<size_t>(made)];
    const bool kept = std::all_of(node.inputs.begin(), node.inputs.end(), [&](ValueId id) {
      return last[static_cast<size_t>(id)] >= reader;
    });
    if (reader < 0 || !kept) continue;
    Value again = values[static_cast<size_t>(made)];
    again.name += ".again";
    values.push_back(again);
    Node copy = node;
    copy.phase = Phase::kBackward;
    copy.outputs = {static_cast<ValueId>(values.size() - 1)};
    before[reader].push_back(std::move(copy));
    for (size_t i = static_cast<size_t>(reader); i < nodes.size(); ++i) {
      if (nodes[i].phase != Phase::kBackward) continue;
      std::replace(nodes[i].inputs.begin(), nodes[i].inputs.end(), made,
                   static_cast<ValueId>(values.size() - 1));
    }
  }
  std::vector<Node> all;
  for (size_t i = 0; i < nodes.size(); ++i) {
    for (Node& node : before[static_cast<int>(i)]) all.push_back(std::move(node));
    all.push_back(std::move(nodes[i]));
  }
  nodes = std::move(all);
}

void mark_saved(std::vector<Value>& values, const std::vector<Node>& nodes) {
  std::vector<bool> forward(values.size(), false);
  for (const Node& node : nodes) {
    // The head makes gradients in the forward pass: they are no saved activations.
    if (node.phase == Phase::kForward && node.op != OpKind::kHeadLossTrain) {
      for (const ValueId id : node.outputs) forward[static_cast<size_t>(id)] = true;
    }
    if (node.phase != Phase::kBackward) continue;
    for (const ValueId id : node.inputs) {
      Value& value = values[static_cast<size_t>(id)];
      if (forward[static_cast<size_t>(id)] && value.kind == ValueKind::kTemporary) {
        value.kind = ValueKind::kSaved;
      }
    }
  }
}

void assign_storage(Program& program, bool in_place) {
  const size_t count = program.values.size();
  const int end = static_cast<int>(program.steps.size()) - 1;
  program.lifetimes.assign(count, Lifetime{});
  program.storage_of.assign(count, kNoValue);
  const auto touch = [&](ValueId id, int step) {
    Lifetime& life = program.lifetimes[static_cast<size_t>(id)];
    if (life.first < 0) life.first = step;
    life.last = step;
  };
  for (int step = 0; step <= end; ++step) {
    const Node& node = program.steps[static_cast<size_t>(step)].node;
    for (const ValueId id : node.inputs) touch(id, step);
    for (const ValueId id : node.outputs) touch(id, step);
  }
  for (size_t i = 0; i < count; ++i) {
    if (!is_pooled(program.values[i])) program.lifetimes[i] = {0, end};
  }
  if (!in_place) return;
  // storage_last: until when the memory of a root is needed by any value that lives in it.
  std::vector<int> storage_last(count);
  for (size_t i = 0; i < count; ++i) storage_last[i] = program.lifetimes[i].last;
  for (int step = 0; step <= end; ++step) {
    const Node& node = program.steps[static_cast<size_t>(step)].node;
    for (const auto& [in, out] : describe(node.op).in_place) {
      if (in >= static_cast<int>(node.inputs.size())) continue;
      const ValueId from = node.inputs[static_cast<size_t>(in)];
      const ValueId to = node.outputs[static_cast<size_t>(out)];
      if (!is_pooled(program.value(from)) || !is_pooled(program.value(to)) ||
          program.value(from).bytes() != program.value(to).bytes() ||
          program.storage_of[static_cast<size_t>(to)] != kNoValue) {
        continue;
      }
      const ValueId known = program.storage_of[static_cast<size_t>(from)];
      const ValueId root = known == kNoValue ? from : known;
      if (storage_last[static_cast<size_t>(root)] != step) continue;  // still read later
      const int last = program.lifetimes[static_cast<size_t>(to)].last;
      if (last == step) continue;  // unused output: nothing to gain
      program.storage_of[static_cast<size_t>(to)] = root;
      storage_last[static_cast<size_t>(root)] = last;
      if (program.value(to).kind == ValueKind::kSaved) {
        program.values[static_cast<size_t>(root)].kind = ValueKind::kSaved;
      }
    }
  }
  for (size_t i = 0; i < count; ++i) {
    if (is_pooled(program.values[i]) && program.storage_of[i] == kNoValue) {
      program.lifetimes[i].last = storage_last[i];
    }
  }
}

}  // namespace hetmem
