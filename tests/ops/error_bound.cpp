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
  if (std::get<NormParams>(op.params).has_addend) dx += kUnit * (most(op, 4) + g * (2 + normed) * rstd);
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
  switch (op.kind) {
    case OpKind::kGelu:
      return constant(op, {kStep * most(op, 0)});
    case OpKind::kGeluBackward:
      return constant(op, {kStep * most(op, 0) * (1 + most(op, 1))});
    case OpKind::kSwiglu:
      return constant(op, {kStep * most(op, 0) * most(op, 1)});
    default:
      return constant(op, {kStep * most(op, 0) * most(op, 2) * (1 + most(op, 1)),
                           kStep * most(op, 0) * most(op, 1)});
  }
}

Results of_head(const OpCase& op) {
  const auto width = static_cast<double>(op.inputs[0].shape[-1]);
  const auto rows = static_cast<double>(op.inputs[0].shape.rows());
  const auto vocabulary = static_cast<double>(op.inputs[1].shape[0]);
  const double scale = op.runtime.loss_scale;
  const double logit = width * kUnit * width * most(op, 0) * most(op, 1) / 4;
  const double p = 2 * logit + (vocabulary / 16 + 16) * kUnit;
  std::vector<double> bounds{rows * p};
  if (op.kind == OpKind::kHeadLossTrain) {
    bounds.push_back(scale * most(op, 1) * 2 * (p + vocabulary * kUnit));
    const Results exact = run_reference(op);
    bounds.push_back(scale * most(op, 0) * (rows / 8 + 1) * (p + rows * kUnit) +
                     (op.runtime.accumulate ? 8 * kUnit * most(exact[2]) : 0));
  }
  return constant(op, bounds);
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
