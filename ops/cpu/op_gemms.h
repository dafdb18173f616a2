// The GEMMs that ops run: their shapes from those of the operands. What the kernels use, and what
// tuning and benchmarks measure. Pure.
#pragma once

#include <vector>

#include "core/op.h"
#include "ops/cpu/gemm.h"

namespace hetmem::ops::cpu {

GemmShape linear_gemm(const LinearParams& params, const Shape& x, const Shape& w);
GemmShape linear_backward_input_gemm(const LinearParams& params, const Shape& dy, const Shape& w);
GemmShape linear_backward_weight_gemm(const LinearParams& params, const Shape& x, const Shape& dy);

// Tokens whose logits exist at a time: about half of a small batch, at most 256, so that those of
// the whole batch never do.
int64_t head_token_block(int64_t tokens);
// Of `rows` tokens and a weight, or a block of its rows.
GemmShape head_logits_gemm(int64_t rows, const Shape& w);
GemmShape head_input_gradient_gemm(int64_t rows, const Shape& w);
GemmShape head_weight_gradient_gemm(int64_t rows, const Shape& w);

// All of an op's, in order; none for an op without. `block_rows`: of the head's weight (<= 0: all).
std::vector<GemmShape> gemms_of(OpKind kind, const OpParams& params,
                                const std::vector<Shape>& inputs, int64_t block_rows = 0);

}  // namespace hetmem::ops::cpu
