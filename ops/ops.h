// Numeric kernels: one entry that enqueues an op on a stream, and the few functions outside the op
// set (optimizer steps, norms). Memory, workspace included, comes from the caller. Every view must
// be in the memory space of the stream.
#pragma once

#include <cstdint>
#include <vector>

#include "core/op.h"
#include "core/tensor_view.h"
#include "device/stream.h"
#include "ops/moment_code.h"
#include "ops/optimizer_step.h"

namespace hetmem::ops {

// Enqueues the op on the stream; returns at once. Operands and their order are those of core/op.h.
// Throws Error (kInternal) on operands that do not fit together; errors of the kernel itself
// surface at the stream's synchronize().
void launch(Stream& stream, OpCall call);

// The parts of an op whose weight, of `weight_rows` rows, comes in blocks of `block_rows` (<= 0: in
// one); a single default part for other ops. `inputs` are the shapes of the whole operands. Results
// depend on the block size and on nothing else of the parts; in one block they are the whole op's.
//
//   for (const OpPart& part : ops::parts(device, kind, params, shapes, rows, block_rows)) {
//     call.part = part;
//     call.inputs[1] = <rows [first_row, first_row + rows) of the weight>;
//     ops::launch(stream, call);
//   }
std::vector<OpPart> parts(DeviceKind device, OpKind kind, const OpParams& params,
                          const std::vector<Shape>& inputs, int64_t weight_rows,
                          int64_t block_rows);

// Bytes of workspace that the backend needs for a call with inputs of these shapes (0: none), and
// for its parts with any block size. Depends on shapes and on the instruction set, never on the
// number of threads.
int64_t workspace_bytes(DeviceKind device, OpKind kind, const OpParams& params,
                        const std::vector<Shape>& inputs);

// Attention of T new tokens of one sequence over the keys and values of all before them (inference:
// no dropout). Rows [position, position + T) of the cache are filled from the call's k and v, then
// query i sees rows [0, position + i].
struct KeyValueRows {
  TensorView keys;    // [G, S, D], S >= position + T: a head's rows follow each other in memory
  TensorView values;  // the same
  int64_t position = 0;
};
// The call is one of kAttention with B = 1.
void cached_attention(Stream& stream, OpCall call, const KeyValueRows& cache);

// Optimizer steps of a tensor, in place. A weight in fp32, or in bf16 with `low` (int16): then the
// two are a split master (core/split_master.h), which steps with the bits of the fp32 weight.
// Gradient, moments and momentum are fp32.
void adamw_step(Stream& stream, const AdamWStep& step, TensorView weight, TensorView gradient,
                TensorView m, TensorView v, TensorView low = {});

// AdamW with m and v in 8 bits (ops/moment_code.h), as uint8 [records, kMomentRecordBytes]
// (core/moments.h): the step above, without_second_correction, on the moments that the codes stand
// for; the new ones are encoded when the weight has been stepped. A gradient counts as no larger
// than kLargestMomentGradient. Records count from the start of the views: a piece of a tensor must
// begin at a multiple of kMomentBlock for the results to be those of the tensor in one. Zeros
// everywhere are moments of zero.
void adamw_8bit_step(Stream& stream, const AdamWStep& step, TensorView weight, TensorView gradient,
                     TensorView m, TensorView v, TensorView low = {});
void sgd_step(Stream& stream, const SgdStep& step, TensorView weight, TensorView gradient,
              TensorView momentum, TensorView low = {});

// sum (float64 [1]) = the sum of squares of a tensor in double, by fixed blocks of kSumBlock
// elements counted from its start, blocks added in order. `accumulate`: they are added to what is
// there, so that a tensor in pieces of whole blocks has the sum that it has in one.
constexpr int64_t kSumBlock = 65536;
void sum_of_squares(Stream& stream, TensorView values, TensorView sum, bool accumulate = false);

// The instruction set whose kernels run here: "avx512", "avx2". HETMEM_ISA in the environment
// lowers it for tests. Throws Error (kBadInput) on a processor without AVX2.
const char* instruction_set();
// Whether the processor multiplies bf16 natively (AVX-512 BF16).
bool has_native_bf16();

}  // namespace hetmem::ops
