#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "ops/reference/kernels.h"

namespace hetmem::ops::reference {
namespace {

// q, k and v (or their gradients) as operands of their own or as columns of one.
struct Heads {
  Heads(const AttentionParams& params, const std::vector<TensorView>& operands)
      : q(params.packed ? operands[0].columns(0, params.heads * params.head_dim) : operands[0]),
        k(params.packed ? operands[0].columns(params.heads * params.head_dim,
                                              params.kv_heads * params.head_dim)
                        : operands[1]),
        v(params.packed ? operands[0].columns((params.heads + params.kv_heads) * params.head_dim,
                                              params.kv_heads * params.head_dim)
                        : operands[2]) {}
  Rows q;
  Rows k;
  Rows v;
};

void clear(const Rows& rows) {
  for (int64_t r = 0; r < rows.count; ++r) std::fill_n(&rows(r, 0), rows.width, 0.0);
}

// One query of one head: its rows and columns.
struct Query {
  int64_t batch;
  int64_t head;
  int64_t time;
  int64_t row;     // of q and o
  int64_t first;   // of k and v: the row of key 0
  int64_t column;  // of q and o
  int64_t kv_column;
};

template <typename Body>
void for_each_query(const AttentionParams& params, int64_t batches, int64_t time, Body body) {
  for (int64_t batch = 0; batch < batches; ++batch) {
    for (int64_t head = 0; head < params.heads; ++head) {
      for (int64_t t = 0; t < time; ++t) {
        body(Query{batch, head, t, batch * time + t, batch * time, head * params.head_dim,
                   head / (params.heads / params.kv_heads) * params.head_dim});
      }
    }
  }
}

// Scaled scores of the keys that the query sees.
std::vector<double> scores_of(const AttentionParams& params, const Heads& in, const Query& query) {
  std::vector<double> scores;
  for (int64_t key = 0; key <= query.time; ++key) {
    double score = 0;
    for (int64_t i = 0; i < params.head_dim; ++i) {
      score += in.q(query.row, query.column + i) * in.k(query.first + key, query.kv_column + i);
    }
    scores.push_back(score * static_cast<double>(params.scale));
  }
  return scores;
}

double keep_factor(const OpCall& call, const Query& query, int64_t time, int64_t key) {
  const auto& params = std::get<AttentionParams>(call.params);
  if (params.dropout == 0.0F) return 1.0;
  const int64_t index =
      ((query.batch * params.heads + query.head) * time + query.time) * time + key;
  return dropout_factor(call.runtime, params.dropout, params.dropout_site, index);
}

}  // namespace

void attention(const OpCall& call) {
  const auto& params = std::get<AttentionParams>(call.params);
  const Heads in(params, call.inputs);
  const Rows o(call.outputs[0]);
  const int64_t batches = call.outputs[0].shape[0];
  const int64_t time = call.outputs[0].shape[1];
  clear(o);
  for_each_query(params, batches, time, [&](const Query& query) {
    const std::vector<double> scores = scores_of(params, in, query);
    const double most = *std::max_element(scores.begin(), scores.end());
    double sum = 0;
    for (const double score : scores) sum += std::exp(score - most);
    const double log_sum = most + std::log(sum);
    call.outputs[1].as<double>()[(query.batch * params.heads + query.head) * time + query.time] =
        log_sum;
    for (int64_t key = 0; key <= query.time; ++key) {
      const double weight = std::exp(scores[static_cast<size_t>(key)] - log_sum) *
                            keep_factor(call, query, time, key);
      for (int64_t i = 0; i < params.head_dim; ++i) {
        o(query.row, query.column + i) += weight * in.v(query.first + key, query.kv_column + i);
      }
    }
  });
}

void attention_backward(const OpCall& call) {
  const auto& params = std::get<AttentionParams>(call.params);
  const size_t operands = params.packed ? 1 : 3;
  const Heads in(params, call.inputs);
  const Heads out(params, call.outputs);
  const Rows o(call.inputs[operands]);
  const auto* lse = call.inputs[operands + 1].as<double>();
  const Rows dout(call.inputs[operands + 2]);
  const int64_t batches = call.inputs[operands].shape[0];
  const int64_t time = call.inputs[operands].shape[1];
  for (const Rows& rows : {out.q, out.k, out.v}) clear(rows);
  for_each_query(params, batches, time, [&](const Query& query) {
    const std::vector<double> scores = scores_of(params, in, query);
    const double log_sum = lse[(query.batch * params.heads + query.head) * time + query.time];
    double delta = 0;  // the sum over keys of probability times its gradient
    for (int64_t i = 0; i < params.head_dim; ++i) {
      delta += o(query.row, query.column + i) * dout(query.row, query.column + i);
    }
    for (int64_t key = 0; key <= query.time; ++key) {
      const int64_t row = query.first + key;
      const double probability = std::exp(scores[static_cast<size_t>(key)] - log_sum);
      const double keep = keep_factor(call, query, time, key);
      double dp = 0;
      for (int64_t i = 0; i < params.head_dim; ++i) {
        const double d = dout(query.row, query.column + i);
        out.v(row, query.kv_column + i) += probability * keep * d;
        dp += d * in.v(row, query.kv_column + i) * keep;
      }
      const double ds = probability * (dp - delta) * static_cast<double>(params.scale);
      for (int64_t i = 0; i < params.head_dim; ++i) {
        out.q(query.row, query.column + i) += ds * in.k(row, query.kv_column + i);
        out.k(row, query.kv_column + i) += ds * in.q(query.row, query.column + i);
      }
    }
  });
}

}  // namespace hetmem::ops::reference
