#include <algorithm>

#include "ops/cpu/kernels.h"
#include "ops/cpu/op_gemms.h"

namespace hetmem::ops::cpu {
namespace {

// One part a block of rows, each with the tokens and the stage of `of`.
void append_blocks(std::vector<OpPart>& all, OpPart of, int64_t block_rows) {
  for (int64_t first = 0; first < of.weight_rows; first += block_rows) {
    of.first_row = first;
    of.rows = std::min(block_rows, of.weight_rows - first);
    all.push_back(of);
  }
}

}  // namespace

std::vector<OpPart> parts(OpKind kind, const OpParams& /*params*/, const std::vector<Shape>& inputs,
                          int64_t weight_rows, int64_t block_rows) {
  const bool embedding = kind == OpKind::kEmbedding || kind == OpKind::kEmbeddingBackward;
  const bool training = kind == OpKind::kHeadLossTrain;
  if (!embedding && !training && kind != OpKind::kHeadLoss) return {OpPart{}};
  const int64_t block = block_rows > 0 ? block_rows : weight_rows;
  std::vector<OpPart> all;
  OpPart part;
  part.weight_rows = weight_rows;
  if (embedding) {
    append_blocks(all, part, block);
    return all;
  }
  const int64_t tokens = inputs[0].rows();
  const int64_t token_block = head_token_block(tokens);
  for (; part.first_token < tokens; part.first_token += token_block) {
    part.tokens = std::min(token_block, tokens - part.first_token);
    part.stage = HeadStage::kLogits;
    append_blocks(all, part, block);
    part.stage = HeadStage::kLoss;
    append_blocks(all, part, weight_rows);
    if (!training) continue;
    part.stage = HeadStage::kGradients;
    append_blocks(all, part, block);
  }
  return all;
}

}  // namespace hetmem::ops::cpu
