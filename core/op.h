// The closed set of ops: their names, parameters, and what each one reads and writes. The graph
// describes them (shapes, gradients, costs), ops executes them, the runtime joins the two; this
// header is all that they share. Values only; thread-safe.
//
// Notation: B batch, T time, C width, H query heads, G key/value heads, D head width, V vocabulary.
// "[.., K]" is any number of leading dimensions. Brackets in the input list mark optional operands,
// present when the parameter named beside them says so.
#pragma once

#include <cstdint>
#include <string_view>
#include <variant>
#include <vector>

#include "core/tensor_view.h"

namespace hetmem {

enum class OpKind : uint8_t {
  // in: tokens int32 [B,T], table [V,C], [positions [P,C]: has_positions]   out: y [B,T,C]
  kEmbedding,
  // in: tokens, dy [B,T,C]   out: dtable [V,C], [dpositions [P,C]: has_positions]
  kEmbeddingBackward,
  // in: x [..,K], w ([N,K], or [K,N]: weight_in_out), [bias [N]: has_bias],
  //     [residual [..,N]: has_addend]   out: y [..,N] = x w^T + bias + residual
  kLinear,
  // in: dy [..,N], w, [addend [..,K]: has_addend]   out: dx [..,K] = dy w + addend
  kLinearBackwardInput,
  // in: x [..,K], dy [..,N]   out: dw (the layout of w), [dbias [N]: has_bias]
  kLinearBackwardWeight,
  // in: x [..,C], w [C], b [C]   out: y, stats fp32 [rows,2] (mean, 1/std)
  kLayerNorm,
  // in: dy, x, w, stats, [addend [..,C]: has_addend]   out: dx (+ addend), dw, db
  kLayerNormBackward,
  // in: x [..,n*C], w [C] (each C-wide group is normed: q/k norms use C = D)
  // out: y, rstd fp32 [elements/C]
  kRmsNorm,
  // in: dy, x, w, rstd, [addend: has_addend]   out: dx (+ addend), dw
  kRmsNormBackward,
  // in: x [B,T,n*D], table fp32 [>=T,D] (D/2 cosines, then D/2 sines)   out: y; `inverse` rotates
  // back and so is the gradient. Half-split pairs (i, i + D/2), as Hugging Face's rotate_half.
  kRope,
  // in: q [B,T,H*D], k [B,T,G*D], v [B,T,G*D]; or, packed, one qkv [B,T,(H+2G)*D]
  // out: o [B,T,H*D], lse fp32 [B,H,T]
  kAttention,
  // in: q, k, v (or qkv), o, lse, do   out: dq, dk, dv (or dqkv)
  kAttentionBackward,
  // in: x   out: y
  kGelu,
  // in: dy, x   out: dx
  kGeluBackward,
  // in: gate, up   out: y = silu(gate) * up
  kSwiglu,
  // in: dy, gate, up   out: dgate, dup
  kSwigluBackward,
  // in: a, b   out: a + b
  kAdd,
  // in: x   out: y = x * mask / (1 - p); its own gradient (the mask is drawn from the counter)
  kDropout,
  // in: x [B,T,C], w [V,C], labels int32 [B,T] (-100: ignored)
  // out: loss float64 [1], the sum over the label tokens (added to what is there)
  kHeadLoss,
  // The same with the gradient, scaled by OpCall::loss_scale. Logits exist for a block of tokens at
  // a time.   out: loss, dx [B,T,C], [dw [V,C]: weight_gradient]
  kHeadLossTrain,
};
constexpr int kOpKinds = static_cast<int>(OpKind::kHeadLossTrain) + 1;

struct EmbeddingParams {
  bool has_positions = false;
  // Backward: dtable already holds the gradient of a tied head and is added to, whatever
  // OpRuntime::accumulate says of dpositions.
  bool accumulate_table = false;
};
struct LinearParams {
  bool weight_in_out = false;  // w is [in, out] (GPT-2's Conv1D), else [out, in]
  bool has_bias = false;
  bool has_addend = false;
  bool bf16 = false;         // operands of the product rounded to bf16, summed in fp32
  bool bf16_weight = false;  // with bf16: w is stored in bf16, and read as it is
};
struct NormParams {
  float epsilon = 1e-5F;
  bool has_addend = false;
};
struct RopeParams {
  int64_t head_dim = 0;
  bool inverse = false;
};
struct AttentionParams {
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  float scale = 1.0F;
  bool packed = false;   // q, k, v are the columns of one operand, in that order
  float dropout = 0.0F;  // on the probabilities, after the softmax
  uint32_t dropout_site = 0;
};
struct GeluParams {
  bool tanh = true;  // the tanh approximation ("gelu_new"), else erf
};
struct DropoutParams {
  float p = 0.0F;
  uint32_t site = 0;  // which dropout of the model this is: part of the counter
};
struct HeadParams {
  bool weight_gradient = true;
  bool bf16 = false;         // as for LinearParams
  bool bf16_weight = false;  // as for LinearParams
};
using OpParams = std::variant<std::monostate, EmbeddingParams, LinearParams, NormParams, RopeParams,
                              AttentionParams, GeluParams, DropoutParams, HeadParams>;

// What an op is told at run time.
struct OpRuntime {
  bool accumulate = false;  // weight gradients are added to, not overwritten
  double loss_scale = 1.0;  // 1 / label tokens of the whole batch of the step
  uint64_t random_key = 0;  // seed, step and micro-batch, mixed
};

// Which part of a call an op runs where its weight comes in blocks of rows (embedding tables, the
// head). The default is the whole op.
enum class HeadStage : uint8_t {
  kLogits,     // of the tokens, for a block of words; no dw
  kLoss,       // of the tokens, over all words; neither w nor dw
  kGradients,  // dx of the tokens, then dw of the block, which may lie where w does
};
// In a partial call the weight (input 1 of kEmbedding and of the heads) and its gradient (output 0
// of kEmbeddingBackward, output 2 of kHeadLossTrain) are views of the block's rows; the other
// operands are whole. Parts run in the order of ops::parts() and share one workspace, which holds
// the logits between the stages. An operand that a stage does not need may be an empty view.
struct OpPart {
  int64_t first_row = 0;    // of the whole weight: the block is [first_row, first_row + rows)
  int64_t rows = 0;         // 0: the whole op, every operand whole
  int64_t weight_rows = 0;  // of the whole weight
  int64_t first_token = 0;  // head: rows of x, [first_token, first_token + tokens)
  int64_t tokens = 0;
  HeadStage stage = HeadStage::kLogits;
};

// One op with its operands: views in the order above, workspace of ops::workspace_bytes.
struct OpCall {
  OpKind kind = OpKind::kAdd;
  OpParams params;
  std::vector<TensorView> inputs;
  std::vector<TensorView> outputs;
  TensorView workspace;  // uint8, 64-byte aligned, or empty
  OpRuntime runtime;
  OpPart part;
};

// "linear_backward_input"
std::string_view name_of(OpKind kind);

// The key of the dropout draws of one micro-batch; element i of site s uses word i % 4 of
// philox(key, s, i / 4) and is kept where uniform_from_bits(word) >= p. For attention, element i is
// ((b * H + h) * T + query) * T + key.
uint64_t random_key_of(uint64_t seed, int64_t step, int64_t micro_batch);

}  // namespace hetmem
