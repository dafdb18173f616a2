#include <cmath>

#include "ops/reference/kernels.h"

namespace hetmem::ops::reference {
namespace {

const NormParams& norm_params(const OpCall& call) { return std::get<NormParams>(call.params); }

void put(double& to, double value, bool accumulate, bool first) {
  to = accumulate || !first ? to + value : value;
}

}  // namespace

void layer_norm(const OpCall& call) {
  const Rows x(call.inputs[0]);
  const auto* w = call.inputs[1].as<double>();
  const auto* b = call.inputs[2].as<double>();
  const Rows y(call.outputs[0]);
  const Rows stats(call.outputs[1]);
  const auto n = static_cast<double>(x.width);
  for (int64_t row = 0; row < x.count; ++row) {
    double mean = 0;
    for (int64_t c = 0; c < x.width; ++c) mean += x(row, c) / n;
    double variance = 0;
    for (int64_t c = 0; c < x.width; ++c) variance += (x(row, c) - mean) * (x(row, c) - mean) / n;
    const double rstd = 1.0 / std::sqrt(variance + static_cast<double>(norm_params(call).epsilon));
    for (int64_t c = 0; c < x.width; ++c) y(row, c) = (x(row, c) - mean) * rstd * w[c] + b[c];
    stats(row, 0) = mean;
    stats(row, 1) = rstd;
  }
}

void layer_norm_backward(const OpCall& call) {
  const Rows dy(call.inputs[0]);
  const Rows x(call.inputs[1]);
  const auto* w = call.inputs[2].as<double>();
  const Rows stats(call.inputs[3]);
  const Rows dx(call.outputs[0]);
  const auto n = static_cast<double>(x.width);
  for (int64_t row = 0; row < x.count; ++row) {
    const double rstd = stats(row, 1);
    const auto normed = [&](int64_t c) { return (x(row, c) - stats(row, 0)) * rstd; };
    double mean_g = 0;
    double mean_gx = 0;
    for (int64_t c = 0; c < x.width; ++c) {
      mean_g += dy(row, c) * w[c] / n;
      mean_gx += dy(row, c) * w[c] * normed(c) / n;
    }
    for (int64_t c = 0; c < x.width; ++c) {
      put(call.outputs[1].as<double>()[c], dy(row, c) * normed(c), call.runtime.accumulate,
          row == 0);
      put(call.outputs[2].as<double>()[c], dy(row, c), call.runtime.accumulate, row == 0);
      dx(row, c) = (dy(row, c) * w[c] - mean_g - normed(c) * mean_gx) * rstd;
      if (norm_params(call).has_addend) dx(row, c) += Rows(call.inputs[4])(row, c);
    }
  }
}

void rms_norm(const OpCall& call) {
  const auto* x = call.inputs[0].as<double>();
  const auto* w = call.inputs[1].as<double>();
  auto* y = call.outputs[0].as<double>();
  const int64_t width = call.inputs[1].shape[0];
  for (int64_t row = 0; row < call.inputs[0].elements() / width; ++row) {
    const double* from = x + row * width;
    double mean_square = 0;
    for (int64_t c = 0; c < width; ++c) mean_square += from[c] * from[c];
    mean_square /= static_cast<double>(width);
    const double rstd =
        1.0 / std::sqrt(mean_square + static_cast<double>(norm_params(call).epsilon));
    for (int64_t c = 0; c < width; ++c) y[row * width + c] = from[c] * rstd * w[c];
    call.outputs[1].as<double>()[row] = rstd;
  }
}

void rms_norm_backward(const OpCall& call) {
  const auto* w = call.inputs[2].as<double>();
  const int64_t width = call.inputs[2].shape[0];
  for (int64_t row = 0; row < call.inputs[1].elements() / width; ++row) {
    const double* dy = call.inputs[0].as<double>() + row * width;
    const double* x = call.inputs[1].as<double>() + row * width;
    const double rstd = call.inputs[3].as<double>()[row];
    double mean_gx = 0;
    for (int64_t c = 0; c < width; ++c) {
      mean_gx += dy[c] * w[c] * x[c] * rstd / static_cast<double>(width);
    }
    for (int64_t c = 0; c < width; ++c) {
      put(call.outputs[1].as<double>()[c], dy[c] * x[c] * rstd, call.runtime.accumulate, row == 0);
      double d = (dy[c] * w[c] - x[c] * rstd * mean_gx) * rstd;
      if (norm_params(call).has_addend) d += call.inputs[4].as<double>()[row * width + c];
      call.outputs[0].as<double>()[row * width + c] = d;
    }
  }
}

}  // namespace hetmem::ops::reference
