// The verifier: a Program is checked without trusting the passes that made it.
#include <algorithm>
#include <string>

#include "core/error.h"
#include "graph/compile.h"
#include "graph/op_table.h"

namespace hetmem {
namespace {

class Verifier {
 public:
  explicit Verifier(const Program& program)
      : program_(program),
        written_(program.values.size(), false),
        holder_(program.values.size(), kNoValue) {}

  void run() {
    check_sizes();
    for (size_t step = 0; step < program_.steps.size(); ++step) check_step(static_cast<int>(step));
    check_gradients();
    require(program_.loss != kNoValue && written_[static_cast<size_t>(program_.loss)], -1,
            "the loss is never made");
  }

 private:
  void require(bool condition, int step, const std::string& what) const {
    if (condition) return;
    const std::string where = step < 0
                                  ? std::string("program")
                                  : "step " + std::to_string(step) + " (" +
                                        program_.steps[static_cast<size_t>(step)].node.name + ")";
    throw Error(ErrorKind::kInternal, where + ": " + what);
  }

  bool given(ValueId id) const {
    const ValueKind kind = program_.value(id).kind;
    return kind == ValueKind::kInput || kind == ValueKind::kConstant ||
           kind == ValueKind::kWeight || kind == ValueKind::kLoss;
  }

  ValueId root(ValueId id) const {
    const ValueId storage = program_.storage_of[static_cast<size_t>(id)];
    return storage == kNoValue ? id : storage;
  }

  void check_sizes() const {
    require(program_.lifetimes.size() == program_.values.size() &&
                program_.storage_of.size() == program_.values.size() &&
                program_.gradients.size() == program_.weights.size(),
            -1, "its tables differ in length");
    for (ValueId id = 0; id < static_cast<ValueId>(program_.values.size()); ++id) {
      require(root(root(id)) == root(id), -1, "storage of a value points at another alias");
      require(program_.value(root(id)).bytes() == program_.value(id).bytes(), -1,
              "values of different size share memory");
    }
  }

  void check_step(int step) {
    const Node& node = program_.steps[static_cast<size_t>(step)].node;
    std::vector<Value> inputs;
    for (const ValueId id : node.inputs) {
      const Value& value = program_.value(id);
      inputs.push_back(value);
      require(given(id) || written_[static_cast<size_t>(id)], step,
              value.name + " is read before it is written");
      const ValueId holder = holder_[static_cast<size_t>(root(id))];
      require(given(id) || value.kind == ValueKind::kGradient || holder == id, step,
              value.name + " is read after its memory was reused");
      check_alive(id, step);
    }
    const auto expected = describe(node.op).outputs(node.params, inputs);
    for (size_t i = 0; i < node.outputs.size(); ++i) {
      const ValueId id = node.outputs[i];
      const Value& value = program_.value(id);
      if (i < expected.size()) {
        require(expected[i].shape == value.shape && expected[i].dtype == value.dtype, step,
                value.name + " has not the shape that its op makes");
      }
      const bool again = written_[static_cast<size_t>(id)];
      require(!again || value.kind == ValueKind::kGradient, step, value.name + " is written twice");
      if (value.kind == ValueKind::kGradient) check_accumulation(node, again, step);
      written_[static_cast<size_t>(id)] = true;
      holder_[static_cast<size_t>(root(id))] = id;
      check_alive(id, step);
    }
  }

  void check_accumulation(const Node& node, bool again, int step) const {
    const auto* embedding = std::get_if<EmbeddingParams>(&node.params);
    const bool table = embedding != nullptr && embedding->accumulate_table;
    require(!again || node.accumulates || table, step, "overwrites a gradient");
    require(again || !node.accumulates, step, "adds to a gradient that is not there");
  }

  void check_alive(ValueId id, int step) const {
    const Lifetime& life = program_.lifetimes[static_cast<size_t>(root(id))];
    require(life.first <= step && step <= life.last, step,
            program_.value(id).name + " is used outside of its lifetime");
  }

  void check_gradients() const {
    for (size_t i = 0; i < program_.weights.size(); ++i) {
      const Value& weight = program_.value(program_.weights[i]);
      const ValueId gradient = program_.gradients[i];
      require(weight.trainable == (gradient != kNoValue) || !program_.training, -1,
              "weight " + weight.name + " has not exactly the gradients it needs");
      if (gradient == kNoValue) continue;
      require(
          program_.value(gradient).shape == weight.shape && written_[static_cast<size_t>(gradient)],
          -1, "the gradient of " + weight.name + " is never made");
    }
  }

  const Program& program_;
  std::vector<bool> written_;
  std::vector<ValueId> holder_;  // by root: the value that its memory holds now
};

}  // namespace

void verify(const Program& program) { Verifier(program).run(); }

}  // namespace hetmem
