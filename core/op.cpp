#include "core/op.h"

#include <array>

#include "core/philox.h"

namespace hetmem {

std::string_view name_of(OpKind kind) {
  static constexpr std::array<std::string_view, kOpKinds> kNames{"embedding",
                                                                 "embedding_backward",
                                                                 "linear",
                                                                 "linear_backward_input",
                                                                 "linear_backward_weight",
                                                                 "layer_norm",
                                                                 "layer_norm_backward",
                                                                 "rms_norm",
                                                                 "rms_norm_backward",
                                                                 "rope",
                                                                 "attention",
                                                                 "attention_backward",
                                                                 "gelu",
                                                                 "gelu_backward",
                                                                 "swiglu",
                                                                 "swiglu_backward",
                                                                 "add",
                                                                 "dropout",
                                                                 "head_loss",
                                                                 "head_loss_train"};
  return kNames.at(static_cast<size_t>(kind));
}

uint64_t random_key_of(uint64_t seed, int64_t step, int64_t micro_batch) {
  const auto words = philox(seed, static_cast<uint64_t>(step), static_cast<uint64_t>(micro_batch));
  return (static_cast<uint64_t>(words[1]) << 32) | words[0];
}

}  // namespace hetmem
