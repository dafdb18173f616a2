// The CUDA backend behind ops.h: what each function there does on a stream of a CUDA device. No
// CUDA header is needed to call it; where CUDA is left out of the build, a stub takes its place.
// Functions that take a stream enqueue on it and return at once; the others are pure.
#pragma once

#include <cstdint>
#include <vector>

#include "core/op.h"
#include "device/stream.h"
#include "ops/ops.h"

namespace hetmem::ops::cuda_backend {

// The stream's kind() is kCuda in all of them. Operands, results and errors are those of ops.h.
void launch(Stream& stream, OpCall call);
void cached_attention(Stream& stream, OpCall call, const KeyValueRows& cache);
void adamw_step(Stream& stream, const AdamWStep& step, TensorView weight, TensorView gradient,
                TensorView m, TensorView v, TensorView low);
void adamw_8bit_step(Stream& stream, const AdamWStep& step, TensorView weight, TensorView gradient,
                     TensorView m, TensorView v, TensorView low);
void sgd_step(Stream& stream, const SgdStep& step, TensorView weight, TensorView gradient,
              TensorView momentum, TensorView low);
void sum_of_squares(Stream& stream, TensorView values, TensorView sum, bool accumulate);

std::vector<OpPart> parts(OpKind kind, const OpParams& params, const std::vector<Shape>& inputs,
                          int64_t weight_rows, int64_t block_rows);
int64_t workspace_bytes(OpKind kind, const OpParams& params, const std::vector<Shape>& inputs);

}  // namespace hetmem::ops::cuda_backend
