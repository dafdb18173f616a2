// How far a kernel in fp32 may be from exact arithmetic: bounds by the standard analysis of
// rounding errors (Higham, Accuracy and Stability of Numerical Algorithms, chapters 3 and 4).
#pragma once

#include "op_case.h"

namespace hetmem::testing_ops {

constexpr double kUnit = 0x1p-24;  // half a unit in the last place of 1: one rounding

// A bound for each element of each output of an op, given fp32 operands.
Results error_bound(const OpCase& op);
// Its part for attention.
Results attention_error_bound(const OpCase& op);
Results attention_backward_error_bound(const OpCase& op);

}  // namespace hetmem::testing_ops
