// The CUDA backend of a build without CUDA: there is no device of its kind, so that what takes a
// stream is never called. A plan for such a device is refused.
#include "ops/cuda/backend.h"

#include "core/error.h"

namespace hetmem::ops::cuda_backend {
namespace {

[[noreturn]] void refuse() {
  throw Error(ErrorKind::kBadInput,
              "this hetmem was built without CUDA and knows nothing of the memory that its kernels "
              "take; give --device cpu, or use a build with CUDA");
}

}  // namespace

// NOLINTBEGIN(performance-unnecessary-value-param): the other backend keeps the call.
void launch(Stream& /*stream*/, OpCall /*call*/) { refuse(); }
void cached_attention(Stream& /*stream*/, OpCall /*call*/, const KeyValueRows& /*cache*/) {
  refuse();
}
// NOLINTEND(performance-unnecessary-value-param)
void adamw_step(Stream& /*stream*/, const AdamWStep& /*step*/, TensorView /*weight*/,
                TensorView /*gradient*/, TensorView /*m*/, TensorView /*v*/, TensorView /*low*/) {
  refuse();
}
void adamw_8bit_step(Stream& /*stream*/, const AdamWStep& /*step*/, TensorView /*weight*/,
                     TensorView /*gradient*/, TensorView /*m*/, TensorView /*v*/,
                     TensorView /*low*/) {
  refuse();
}
void sgd_step(Stream& /*stream*/, const SgdStep& /*step*/, TensorView /*weight*/,
              TensorView /*gradient*/, TensorView /*momentum*/, TensorView /*low*/) {
  refuse();
}
void sum_of_squares(Stream& /*stream*/, TensorView /*values*/, TensorView /*sum*/,
                    bool /*accumulate*/) {
  refuse();
}

std::vector<OpPart> parts(OpKind /*kind*/, const OpParams& /*params*/,
                          const std::vector<Shape>& /*inputs*/, int64_t /*weight_rows*/,
                          int64_t /*block_rows*/) {
  refuse();
}
int64_t workspace_bytes(OpKind /*kind*/, const OpParams& /*params*/,
                        const std::vector<Shape>& /*inputs*/) {
  refuse();
}

}  // namespace hetmem::ops::cuda_backend
