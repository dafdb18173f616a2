#include "error_bound.h"

#include <algorithm>
#include <cmath>

namespace hetmem::testing_ops {
namespace {

double most(const std::vector<double>& numbers) {
  double value = 0;
  for (const double number : numbers) value = std::max(value, std::abs(number));
  return value;
}
double most(const OpCase& op, size_t input) { return most(op.inputs[input].numbers); }

Results constant(const OpCase& op, const std::vector<double>& bounds) {
  Results results;
  for (size_t i = 0; i < op.outputs.size(); ++i) {
    results.emplace_back(static_cast<size_t>(op.outputs[i].elements()), bounds[i]);
  }
  return results;
}

// What the head's operands in bf16 add to a product, in roundings of fp32: 2^-8 each.
int64_t product_roundings(const OpCase& op) {
  return std::get<HeadParams>(op.params).bf16 ? 2 * (1 << 16) + 128 : 0;
}

OpCase absolute(OpCase op) {
  for (Operand& operand : op.inputs) {
    for (double& number : operand.numbers) number = std::abs(number);
  }
  return op;
}

// A sum of products is off by at most `roundings` times the sum of the absolute products: the op on
// absolute values. What was in an output before counts as one more term.
Results of_products(const OpCase& op, int64_t roundings) {
  Results bounds = run_reference(absolute(op));
  for (size_t i = 0; i < bounds.size(); ++i) {
    const std::vector<double> start = before(op, i);
    for (size_t j = 0; j < bounds[i].size(); ++j) {
      if (!std::isnan(start[j])) bounds[i][j] += std::abs(start[j]) - start[j];
      bounds[i][j] *= static_cast<double>(roundings) * kUnit;
    }
  }
  return bounds;
}

// Additions behind each other in a sum over 16 lanes, and a few operations beside them.
double lane_roundings(int64_t n) { return static_cast<double>(n) / 16.0 + 10.0; }

// Mean and variance come from lane sums; 1 / std is half as sensitive as the variance, which is off
// by up to three lane sums where the mean of |x| is no larger than the deviation.
Results of_norm(const OpCase& op) {
  const int64_t width = op.inputs[1].shape[0];
  const double step = lane_roundings(width) * kUnit;
  const Results exact = run_reference(op);
  if (op.kind == OpKind::kRmsNorm) {
    const double rstd = most(exact[1]);
    return constant(op, {2 * step * most(op, 0) * rstd * most(op, 1), step * rstd});
  }
  const double rstd = most(exact[1]);
  return constant(op, {4 * step * 2 * most(op, 0) * rstd * most(op, 1) + 2 * kUnit * most(op, 2),
                       std::max(step * most(op, 0), 2 * step * rstd)});
}

Results of_norm_backward(const OpCase& op) {
  const bool centred = op.kind == OpKind::kLayerNormBackward;
  const auto width = op.inputs[2].shape[0];
  const double step = lane_roundings(width) * kUnit;
  const double rstd = most(op, 3);
  const double normed = (centred ? 2 : 1) * most(op, 1) * rstd;
  const double g = most(op, 0) * most(op, 2);
  // dx = (g - mean(g) - normed mean(g normed)) rstd, where the mean of |normed| is at most 1
  double dx = 2 * step * g * (2 + normed) * rstd;
  if (std::get<NormParams>(op.params).has_addend)
    dx += kUnit * (most(op, 4) + g * (2 + normed) * rstd);
  // dw and db are sums over the rows
  const auto rows = static_cast<double>(op.inputs[1].shape.elements() / width);
  const double dw = (rows + 4) * kUnit * (rows * most(op, 0) * normed + 4);
  const double db = (rows + 4) * kUnit * (rows * most(op, 0) + 4);
  return constant(op, centred ? std::vector<double>{dx, dw, db} : std::vector<double>{dx, dw});
}

// tanh, erf and the sigmoid are within a few units of 1, and no slope of theirs times its argument
// exceeds 1: sixteen roundings cover value and argument.
Results of_activation(const OpCase& op) {
  constexpr double kStep = 16 * kUnit;
  Results bounds = constant(op, std::vector<double>(op.outputs.size(), kStep));
  const auto size = [&](size_t input, size_t i) { return std::abs(op.inputs[input].numbers[i]); };
  for (size_t i = 0; i < bounds[0].size(); ++i) {
    switch (op.kind) {
      case OpKind::kGelu:
        bounds[0][i] *= size(0, i);
        break;
      case OpKind::kGeluBackward:
        bounds[0][i] *= size(0, i) * (1 + size(1, i));
        break;
      case OpKind::kSwiglu:
        bounds[0][i] *= size(0, i) * size(1, i);
        break;
      default:  // kSwigluBackward: dgate, dup
        bounds[0][i] *= size(0, i) * size(2, i) * (1 + size(1, i));
        bounds[1][i] *= size(0, i) * size(1, i);
    }
  }
  return bounds;
}

// A logit is an inner product; the loss of a row is off by twice the worst of them, a probability
// relatively by as much and by its sum. The gradients are products of (p - onehot) with w and x.
Results of_head(const OpCase& op) {
  const auto& x = op.inputs[0].numbers;
  const auto& w = op.inputs[1].numbers;
  const auto width = static_cast<size_t>(op.inputs[0].shape[-1]);
  const size_t rows = x.size() / width;
  const size_t vocabulary = w.size() / width;
  const bool training = op.kind == OpKind::kHeadLossTrain;
  const auto rounded = static_cast<double>(product_roundings(op));
  const double over_rows = (static_cast<double>(rows + 4) + rounded) * kUnit;
  const double over_words = (static_cast<double>(vocabulary + 4) + rounded) * kUnit;
  Results bounds = constant(op, std::vector<double>(op.outputs.size(), 0.0));
  if (training && op.runtime.accumulate) {
    const std::vector<double> start = before(op, 2);
    for (size_t i = 0; i < start.size(); ++i) bounds[2][i] = std::abs(start[i]) * over_rows;
  }
  std::vector<double> p(vocabulary);
  for (size_t row = 0; row < rows; ++row) {
    const int32_t label = op.inputs[2].integers[row];
    if (label < 0) continue;
    double total = 0;
    double logit_size = 0;
    for (size_t v = 0; v < vocabulary; ++v) {
      double logit = 0;
      double size = 0;
      for (size_t c = 0; c < width; ++c) {
        logit += x[row * width + c] * w[v * width + c];
        size += std::abs(x[row * width + c] * w[v * width + c]);
      }
      p[v] = std::exp(logit);
      total += p[v];
      logit_size = std::max(logit_size, size);
    }
    const double error = 2 * (static_cast<double>(width + 4) + rounded) * kUnit * logit_size +
                         lane_roundings(static_cast<int64_t>(vocabulary)) * kUnit;
    bounds[0][0] += error;
    if (!training) continue;
    for (size_t v = 0; v < vocabulary; ++v) {
      const double probability = p[v] / total;
      const bool is_label = v == static_cast<size_t>(label);
      const double g = op.runtime.loss_scale * (is_label ? 1 - probability : probability);
      const double g_error = op.runtime.loss_scale * (probability * error + (is_label ? kUnit : 0));
      for (size_t c = 0; c < width; ++c) {
        bounds[1][row * width + c] += std::abs(w[v * width + c]) * (g_error + g * over_words);
        if (bounds.size() < 3) continue;
        bounds[2][v * width + c] += std::abs(x[row * width + c]) * (g_error + g * over_rows);
      }
    }
  }
  return bounds;
}

}  // namespace

Results error_bound(const OpCase& op) {
  switch (op.kind) {
    case OpKind::kEmbedding:
    case OpKind::kAdd:
      return of_products(op, 1);
    case OpKind::kDropout:
      return of_products(op, 3);
    case OpKind::kEmbeddingBackward:
      return of_products(op, op.inputs[1].shape.rows() + 1);
    case OpKind::kLinear:
      return of_products(op, op.inputs[0].shape[-1] + 3);
    case OpKind::kLinearBackwardInput:
      return of_products(op, op.inputs[0].shape[-1] + 2);
    case OpKind::kLinearBackwardWeight:
      return of_products(op, op.inputs[0].shape.rows() + 2);
    case OpKind::kRope: {
      // One half of a pair is a sum and one a difference: either way at most |a c| + |b s|.
      return constant(op, {3 * kUnit * 2 * most(op, 0)});
    }
    case OpKind::kLayerNorm:
    case OpKind::kRmsNorm:
      return of_norm(op);
    case OpKind::kLayerNormBackward:
    case OpKind::kRmsNormBackward:
      return of_norm_backward(op);
    case OpKind::kAttention:
      return attention_error_bound(op);
    case OpKind::kAttentionBackward:
      return attention_backward_error_bound(op);
    case OpKind::kHeadLoss:
    case OpKind::kHeadLossTrain:
      return of_head(op);
    default:
      return of_activation(op);
  }
}

}  // namespace hetmem::testing_ops
