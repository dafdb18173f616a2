#include <algorithm>
#include <cmath>
#include <vector>

#include "ops/reference/kernels.h"

namespace hetmem::ops::reference {
namespace {

// Logits of all tokens and words; after the loss, in training, their gradients.
struct Logits {
  double& operator()(int64_t token, int64_t word) const { return data[token * words + word]; }

  double* data;
  int64_t words;
};

void make_logits(const OpCall& call, const OpPart& part, const Logits& logits) {
  const Rows x(call.inputs[0]);
  const Rows w(call.inputs[1]);
  for (int64_t row = part.first_token; row < part.first_token + part.tokens; ++row) {
    for (int64_t v = 0; v < part.rows; ++v) {
      double sum = 0;
      for (int64_t c = 0; c < x.width; ++c) sum += x(row, c) * w(v, c);
      logits(row, part.first_row + v) = sum;
    }
  }
}

void add_loss(const OpCall& call, const OpPart& part, const Logits& logits) {
  const auto* labels = call.inputs[2].as<int32_t>();
  const bool training = call.kind == OpKind::kHeadLossTrain;
  for (int64_t row = part.first_token; row < part.first_token + part.tokens; ++row) {
    double* const begin = &logits(row, 0);
    double* const end = begin + logits.words;
    if (labels[row] < 0) {
      if (training) std::fill(begin, end, 0.0);
      continue;
    }
    const double most = *std::max_element(begin, end);
    double total = 0;
    for (const double* logit = begin; logit != end; ++logit) total += std::exp(*logit - most);
    const double log_total = most + std::log(total);
    *call.outputs[0].as<double>() += log_total - begin[labels[row]];
    if (!training) continue;
    for (int64_t v = 0; v < logits.words; ++v) {
      const double onehot = v == labels[row] ? 1.0 : 0.0;
      begin[v] = (std::exp(begin[v] - log_total) - onehot) * call.runtime.loss_scale;
    }
  }
}

void make_input_gradient(const OpCall& call, const OpPart& part, const Logits& gradients) {
  const Rows w(call.inputs[1]);
  const Rows dx(call.outputs[1]);
  for (int64_t row = part.first_token; row < part.first_token + part.tokens; ++row) {
    for (int64_t c = 0; c < dx.width; ++c) {
      double sum = part.first_row > 0 ? dx(row, c) : 0.0;
      for (int64_t v = 0; v < part.rows; ++v) sum += gradients(row, part.first_row + v) * w(v, c);
      dx(row, c) = sum;
    }
  }
}

void make_weight_gradient(const OpCall& call, const OpPart& part, const Logits& gradients) {
  const Rows x(call.inputs[0]);
  const Rows dw(call.outputs[2]);
  const bool adds = call.runtime.accumulate || part.first_token > 0;
  for (int64_t v = 0; v < part.rows; ++v) {
    for (int64_t c = 0; c < dw.width; ++c) {
      double sum = adds ? dw(v, c) : 0.0;
      for (int64_t row = part.first_token; row < part.first_token + part.tokens; ++row) {
        sum += gradients(row, part.first_row + v) * x(row, c);
      }
      dw(v, c) = sum;
    }
  }
}

void run_stage(const OpCall& call, const OpPart& part, const Logits& logits) {
  switch (part.stage) {
    case HeadStage::kLogits:
      return make_logits(call, part, logits);
    case HeadStage::kLoss:
      return add_loss(call, part, logits);
    case HeadStage::kGradients:
      make_input_gradient(call, part, logits);
      if (call.outputs.size() > 2) make_weight_gradient(call, part, logits);
  }
}

}  // namespace

void head_loss(const OpCall& call) {
  if (call.part.rows > 0) {
    return run_stage(call, call.part,
                     {static_cast<double*>(call.workspace.data), call.part.weight_rows});
  }
  OpPart part;
  part.rows = part.weight_rows = call.inputs[1].shape[0];
  part.tokens = call.inputs[0].shape.rows();
  std::vector<double> logits(static_cast<size_t>(part.tokens * part.weight_rows));
  const bool training = call.kind == OpKind::kHeadLossTrain;
  for (const HeadStage stage : {HeadStage::kLogits, HeadStage::kLoss, HeadStage::kGradients}) {
    if (stage == HeadStage::kGradients && !training) continue;
    part.stage = stage;
    run_stage(call, part, {logits.data(), part.weight_rows});
  }
}

}  // namespace hetmem::ops::reference
