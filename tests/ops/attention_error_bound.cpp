#include <cmath>

#include "error_bound.h"
#include "ops/reference/kernels.h"

namespace hetmem::testing_ops {
namespace {

// Where q, k and v (or their gradients) lie: in operands of their own or as columns of one.
struct Place {
  size_t operand;
  size_t at;
};

class Attention {
 public:
  explicit Attention(const OpCase& which)
      : op(which),
        params(std::get<AttentionParams>(which.params)),
        time(which.inputs[0].shape[1]) {}

  int64_t batches() const { return op.inputs[0].shape[0]; }
  int64_t kv_head(int64_t head) const { return head / (params.heads / params.kv_heads); }
  // part 0: q, 1: k, 2: v
  Place place(int part, int64_t batch, int64_t t, int64_t head, int64_t i) const {
    const size_t operand = params.packed ? 0 : static_cast<size_t>(part);
    int64_t column = head * params.head_dim + i;
    if (params.packed && part > 0) column += params.heads * params.head_dim;
    if (params.packed && part > 1) column += params.kv_heads * params.head_dim;
    return {operand,
            static_cast<size_t>((batch * time + t) * op.inputs[operand].shape[-1] + column)};
  }
  double value(int part, int64_t batch, int64_t t, int64_t head, int64_t i) const {
    const Place where = place(part, batch, t, head, i);
    return op.inputs[where.operand].numbers[where.at];
  }
  size_t row(int64_t batch, int64_t head, int64_t t) const {
    return static_cast<size_t>((batch * params.heads + head) * time + t);
  }
  size_t column(int64_t batch, int64_t t, int64_t head, int64_t i) const {
    return static_cast<size_t>(((batch * time + t) * params.heads + head) * params.head_dim + i);
  }
  double keep(int64_t batch, int64_t head, int64_t t, int64_t key) const {
    if (params.dropout == 0.0F) return 1.0;
    const auto index = static_cast<int64_t>(row(batch, head, t)) * time + key;
    return ops::reference::dropout_factor(op.runtime, params.dropout, params.dropout_site, index);
  }
  // A scaled score and how far it may be off: an inner product of head_dim terms.
  std::pair<double, double> score(int64_t batch, int64_t head, int64_t t, int64_t key) const {
    double sum = 0;
    double size = 0;
    for (int64_t i = 0; i < params.head_dim; ++i) {
      const double term = value(0, batch, t, head, i) * value(1, batch, key, kv_head(head), i);
      sum += term;
      size += std::abs(term);
    }
    const auto scale = static_cast<double>(params.scale);
    return {sum * scale, size * scale * static_cast<double>(params.head_dim + 2) * kUnit};
  }

  const OpCase& op;
  const AttentionParams& params;
  int64_t time;
};

Results zeros(const OpCase& op) {
  Results results;
  for (const Shape& shape : op.outputs) {
    results.emplace_back(static_cast<size_t>(shape.elements()), 0.0);
  }
  return results;
}

}  // namespace

// o = sum of p v, with p = exp(s - lse): the error of p is that of its score and of lse, the
// exponential's and, for each tile of keys, a rescaling's.
Results attention_error_bound(const OpCase& op) {
  const Attention a(op);
  const Results exact = run_reference(op);
  Results bounds = zeros(op);
  for (int64_t batch = 0; batch < a.batches(); ++batch) {
    for (int64_t head = 0; head < a.params.heads; ++head) {
      for (int64_t t = 0; t < a.time; ++t) {
        const size_t row = a.row(batch, head, t);
        const double sum = (static_cast<double>(t) / 16 + 24) * kUnit;
        double lse = sum + std::abs(exact[1][row]) * kUnit;
        for (int64_t key = 0; key <= t; ++key) {
          const auto [score, error] = a.score(batch, head, t, key);
          lse += std::exp(score - exact[1][row]) * error;
        }
        bounds[1][row] = lse;
        for (int64_t key = 0; key <= t; ++key) {
          const auto [score, error] = a.score(batch, head, t, key);
          const double weight =
              std::exp(score - exact[1][row]) * a.keep(batch, head, t, key) *
              (error + lse + std::abs(score) * kUnit + static_cast<double>(t + 16) * kUnit);
          for (int64_t i = 0; i < a.params.head_dim; ++i) {
            bounds[0][a.column(batch, t, head, i)] +=
                weight * std::abs(a.value(2, batch, key, a.kv_head(head), i));
          }
        }
      }
    }
  }
  return bounds;
}

// dv = sum of p do, ds = p (do . v - do . o) scale, dq = sum of ds k, dk = sum of ds q.
Results attention_backward_error_bound(const OpCase& op) {
  const Attention a(op);
  const size_t operands = a.params.packed ? 1 : 3;
  const auto& o = op.inputs[operands].numbers;
  const auto& lse = op.inputs[operands + 1].numbers;
  const auto& dout = op.inputs[operands + 2].numbers;
  const int64_t d = a.params.head_dim;
  const auto inner = static_cast<double>(d + 4) * kUnit;
  const auto over_keys = static_cast<double>(a.time + 8) * kUnit;
  const auto over_queries =
      static_cast<double>(a.time * a.params.heads / a.params.kv_heads + 8) * kUnit;
  Results bounds = zeros(op);
  const auto bound = [&](const Place& place) -> double& { return bounds[place.operand][place.at]; };
  for (int64_t batch = 0; batch < a.batches(); ++batch) {
    for (int64_t head = 0; head < a.params.heads; ++head) {
      const int64_t kv = a.kv_head(head);
      for (int64_t t = 0; t < a.time; ++t) {
        double delta = 0;
        double delta_size = 0;
        for (int64_t i = 0; i < d; ++i) {
          const size_t at = a.column(batch, t, head, i);
          delta += o[at] * dout[at];
          delta_size += std::abs(o[at] * dout[at]);
        }
        for (int64_t key = 0; key <= t; ++key) {
          const auto [score, error] = a.score(batch, head, t, key);
          const double log_sum = lse[a.row(batch, head, t)];
          const double keep = a.keep(batch, head, t, key);
          const double p = std::exp(score - log_sum);
          const double p_error = p * (error + (std::abs(score) + std::abs(log_sum) + 8) * kUnit);
          double dp = 0;
          double dp_size = 0;
          for (int64_t i = 0; i < d; ++i) {
            const double g = dout[a.column(batch, t, head, i)];
            const double term = g * a.value(2, batch, key, kv, i) * keep;
            dp += term;
            dp_size += std::abs(term);
            bound(a.place(2, batch, key, kv, i)) +=
                std::abs(g) * keep * (p_error + p * over_queries);
          }
          const auto scale = static_cast<double>(a.params.scale);
          const double ds = scale * p * std::abs(dp - delta);
          const double ds_error =
              scale * (p_error * std::abs(dp - delta) + p * inner * (dp_size + delta_size)) +
              4 * kUnit * ds;
          for (int64_t i = 0; i < d; ++i) {
            bound(a.place(0, batch, t, head, i)) +=
                std::abs(a.value(1, batch, key, kv, i)) * (ds_error + ds * over_keys);
            bound(a.place(1, batch, key, kv, i)) +=
                std::abs(a.value(0, batch, t, head, i)) * (ds_error + ds * over_queries);
          }
        }
      }
    }
  }
  return bounds;
}

}  // namespace hetmem::testing_ops
