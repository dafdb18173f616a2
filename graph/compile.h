// compile(): forward graph -> Program. Derives the backward pass, prunes what frozen parameters do
// not need, fuses, decides what is written in place, and computes lifetimes. Pure and
// deterministic.
#pragma once

#include <functional>
#include <iosfwd>
#include <string>
#include <vector>

#include "graph/graph.h"

namespace hetmem {

struct Cost {
  double flops = 0;
  double bytes = 0;  // read and written
};

struct Step {
  Node node;
  int64_t workspace_bytes = 0;  // filled by the caller of compile() through CompileOptions
  Cost cost;
};

// The steps (indices into Program::steps) between which a value's memory is needed, both included.
struct Lifetime {
  int first = -1;
  int last = -1;
};

struct Program {
  std::vector<Value> values;
  std::vector<Step> steps;
  std::vector<Lifetime>
      lifetimes;  // by value; weights, gradients, inputs, constants: whole Program
  // The value whose memory a value shares (in-place writes), or kNoValue: by value. Always points
  // at the first value of the chain.
  std::vector<ValueId> storage_of;
  ValueId loss = kNoValue;
  bool training = false;
  // Weights in the order of the model, and the gradient of each (kNoValue where frozen).
  std::vector<ValueId> weights;
  std::vector<ValueId> gradients;

  const Value& value(ValueId id) const { return values.at(static_cast<size_t>(id)); }
};

struct CompileOptions {
  bool training = true;
  std::function<bool(const std::string& weight)> frozen;  // empty: none is
  // Bytes of workspace that a call needs; the runtime passes ops::workspace_bytes.
  std::function<int64_t(OpKind, const OpParams&, const std::vector<Value>& inputs)> workspace;
  // Matrices and tables are stored in bf16, and products round their other operand to it; gradients
  // and all else stay fp32.
  bool bf16 = false;
  bool fuse = true;
  bool in_place = true;
  bool remake = true;
};

Program compile(const Graph& graph, const CompileOptions& options);

// Throws Error (kInternal) where the Program is not well-formed: a value read before it is written,
// read after its memory was reused in place, written twice, a lifetime too short, an operand whose
// shape its op refuses, a trainable weight without exactly one gradient.
void verify(const Program& program);

// One line a step, for `hetmem plan --dump-program`.
void dump(const Program& program, std::ostream& out);

}  // namespace hetmem
