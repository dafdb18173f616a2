// Cases for the tests of ops: one op with its operands, run by the plain double version and by a
// backend.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "core/op.h"

namespace hetmem::testing_ops {

struct Operand {
  Shape shape;
  std::vector<double> numbers;
  std::vector<int32_t> integers;  // tokens and labels, instead of numbers
  bool bf16 = false;              // a backend has the numbers, which fit, in bf16
};

struct OpCase {
  std::string name;
  OpKind kind = OpKind::kAdd;
  OpParams params;
  std::vector<Operand> inputs;
  std::vector<Shape> outputs;
  OpRuntime runtime;
};

// The numbers of every output.
using Results = std::vector<std::vector<double>>;

// Normal numbers of this deviation, each one an fp32 number.
Operand normal(const Shape& shape, uint64_t stream, double deviation = 1.0, double mean = 0.0);

// What an output holds before the call: numbers that must be added to where gradients accumulate
// (and for the loss, which always is), else NaN, which an element that is not written would show.
std::vector<double> before(const OpCase& op, size_t output);

Results run_reference(const OpCase& op);

// What runs calls: their operands lie in host memory, and it is done when it returns.
struct Backend {
  std::string name;
  std::function<void(const OpCall&)> run;
  std::function<int64_t(OpKind, const OpParams&, const std::vector<Shape>&)> workspace_bytes;
  std::function<std::vector<OpPart>(OpKind, const OpParams&, const std::vector<Shape>&,
                                    int64_t weight_rows, int64_t block_rows)>
      parts;
};
// `in_place` shares the memory of one input with one output.
Results run_on(const Backend& backend, const OpCase& op, std::pair<int, int> in_place = {-1, -1});
Results run_cpu(const OpCase& op, int threads, std::pair<int, int> in_place = {-1, -1});

// An op by its parts: only the block of each part is where the weight and its gradient would be.
struct PartsRun {
  int64_t weight_rows;
  int64_t block_rows;
  int threads;  // of the CPU
  bool gradient_over_weight = false;
};
Results run_parts_on(const Backend& backend, const OpCase& op, const PartsRun& run);
Results run_cpu_parts(const OpCase& op, const PartsRun& run);
Results run_reference_parts(const OpCase& op, const PartsRun& run);

// An op of the backward pass, and which input of the forward op each of its outputs belongs to (-1:
// to none).
struct Backward {
  OpCase op;
  std::vector<int> gradient_of;
};
// The backward ops of a forward one, for a gradient dy of its first output.
std::vector<Backward> backward_of(const OpCase& forward, const Results& results, const Operand& dy);

// The same with every operand rounded to fp32.
OpCase rounded(OpCase op);
// The same with an operand rounded to bf16 and stored so.
OpCase with_bf16_operand(OpCase op, size_t input);

// Every forward op in several forms. Small ones serve finite differences.
std::vector<OpCase> forward_cases(bool small);

}  // namespace hetmem::testing_ops
