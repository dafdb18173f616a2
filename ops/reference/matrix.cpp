#include <algorithm>

#include "ops/reference/kernels.h"

namespace hetmem::ops::reference {
namespace {

// A weight of either layout, by (input, output) column.
struct Weight {
  Weight(const TensorView& view, bool in_out) : rows(view), weight_in_out(in_out) {}
  double& operator()(int64_t in, int64_t out) const {
    return weight_in_out ? rows(in, out) : rows(out, in);
  }
  int64_t inputs() const { return weight_in_out ? rows.count : rows.width; }
  int64_t outputs() const { return weight_in_out ? rows.width : rows.count; }

  Rows rows;
  bool weight_in_out;
};

const LinearParams& linear_params(const OpCall& call) {
  return std::get<LinearParams>(call.params);
}

// Whether a table, or a block of one, has a row.
bool has_row(const Rows& table, int64_t row) { return row >= 0 && row < table.count; }

// A gradient that may hold something already.
void put(double& to, double value, bool accumulate) { to = accumulate ? to + value : value; }

}  // namespace

void embedding(const OpCall& call) {
  const auto* tokens = call.inputs[0].as<int32_t>();
  const Rows table(call.inputs[1]);
  const Rows y(call.outputs[0]);
  const int64_t first = call.part.first_row;
  const int64_t time = call.outputs[0].shape[1];
  const bool has_positions = std::get<EmbeddingParams>(call.params).has_positions;
  for (int64_t row = 0; row < y.count; ++row) {
    if (!has_row(table, tokens[row] - first)) continue;
    for (int64_t c = 0; c < y.width; ++c) {
      y(row, c) = table(tokens[row] - first, c);
      if (has_positions) y(row, c) += Rows(call.inputs[2])(row % time, c);
    }
  }
}

void embedding_backward(const OpCall& call) {
  const auto& params = std::get<EmbeddingParams>(call.params);
  const auto* tokens = call.inputs[0].as<int32_t>();
  const Rows dy(call.inputs[1]);
  const int64_t time = call.inputs[1].shape[1];
  const auto clear = [](const TensorView& view) {
    std::fill(view.as<double>(), view.as<double>() + view.elements(), 0.0);
  };
  if (!call.runtime.accumulate && !params.accumulate_table) clear(call.outputs[0]);
  const bool positions = params.has_positions && call.part.first_row == 0;
  if (!call.runtime.accumulate && positions) clear(call.outputs[1]);
  const Rows table(call.outputs[0]);
  for (int64_t row = 0; row < dy.count; ++row) {
    const int64_t at = tokens[row] - call.part.first_row;
    for (int64_t c = 0; c < dy.width; ++c) {
      if (has_row(table, at)) table(at, c) += dy(row, c);
      if (positions) Rows(call.outputs[1])(row % time, c) += dy(row, c);
    }
  }
}

void linear(const OpCall& call) {
  const LinearParams& params = linear_params(call);
  const Rows x(call.inputs[0]);
  const Weight w(call.inputs[1], params.weight_in_out);
  const Rows y(call.outputs[0]);
  for (int64_t row = 0; row < x.count; ++row) {
    for (int64_t out = 0; out < w.outputs(); ++out) {
      double sum = params.has_bias ? call.inputs[2].as<double>()[out] : 0.0;
      if (params.has_addend) sum += Rows(call.inputs.back())(row, out);
      for (int64_t in = 0; in < w.inputs(); ++in) sum += x(row, in) * w(in, out);
      y(row, out) = sum;
    }
  }
}

void linear_backward_input(const OpCall& call) {
  const LinearParams& params = linear_params(call);
  const Rows dy(call.inputs[0]);
  const Weight w(call.inputs[1], params.weight_in_out);
  const Rows dx(call.outputs[0]);
  for (int64_t row = 0; row < dy.count; ++row) {
    for (int64_t in = 0; in < w.inputs(); ++in) {
      double sum = params.has_addend ? Rows(call.inputs[2])(row, in) : 0.0;
      for (int64_t out = 0; out < w.outputs(); ++out) sum += dy(row, out) * w(in, out);
      dx(row, in) = sum;
    }
  }
}

void linear_backward_weight(const OpCall& call) {
  const LinearParams& params = linear_params(call);
  const Rows x(call.inputs[0]);
  const Rows dy(call.inputs[1]);
  const Weight dw(call.outputs[0], params.weight_in_out);
  for (int64_t out = 0; out < dy.width; ++out) {
    for (int64_t in = 0; in < x.width; ++in) {
      double sum = 0;
      for (int64_t row = 0; row < x.count; ++row) sum += x(row, in) * dy(row, out);
      put(dw(in, out), sum, call.runtime.accumulate);
    }
    if (!params.has_bias) continue;
    double sum = 0;
    for (int64_t row = 0; row < x.count; ++row) sum += dy(row, out);
    put(call.outputs[1].as<double>()[out], sum, call.runtime.accumulate);
  }
}

}  // namespace hetmem::ops::reference
