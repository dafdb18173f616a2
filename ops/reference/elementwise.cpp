#include <cmath>
#include <numbers>

#include "core/philox.h"
#include "ops/reference/kernels.h"

namespace hetmem::ops::reference {
namespace {

constexpr double kGeluCubic = 0.044715;

bool tanh_form(const OpCall& call) { return std::get<GeluParams>(call.params).tanh; }

double normal_density(double x) {
  return std::exp(-0.5 * x * x) / std::sqrt(2.0 * std::numbers::pi);
}
double normal_distribution(double x) { return 0.5 * (1.0 + std::erf(x / std::numbers::sqrt2)); }

double tanh_of_gelu(double x) {
  return std::tanh(std::sqrt(2.0 / std::numbers::pi) * (x + kGeluCubic * x * x * x));
}

double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

}  // namespace

void rope(const OpCall& call) {
  const auto& params = std::get<RopeParams>(call.params);
  const Rows x(call.inputs[0]);
  const Rows table(call.inputs[1]);
  const Rows y(call.outputs[0]);
  const int64_t time = call.inputs[0].shape[1];
  const int64_t half = params.head_dim / 2;
  for (int64_t row = 0; row < x.count; ++row) {
    for (int64_t head = 0; head < x.width; head += params.head_dim) {
      for (int64_t i = 0; i < half; ++i) {
        const double cosine = table(row % time, i);
        const double sine = table(row % time, half + i) * (params.inverse ? -1.0 : 1.0);
        const double a = x(row, head + i);
        const double b = x(row, head + half + i);
        y(row, head + i) = a * cosine - b * sine;
        y(row, head + half + i) = b * cosine + a * sine;
      }
    }
  }
}

void gelu(const OpCall& call) {
  for (int64_t i = 0; i < call.inputs[0].elements(); ++i) {
    const double x = call.inputs[0].as<double>()[i];
    call.outputs[0].as<double>()[i] =
        tanh_form(call) ? 0.5 * x * (1.0 + tanh_of_gelu(x)) : x * normal_distribution(x);
  }
}

void gelu_backward(const OpCall& call) {
  for (int64_t i = 0; i < call.inputs[0].elements(); ++i) {
    const double x = call.inputs[1].as<double>()[i];
    double slope = normal_distribution(x) + x * normal_density(x);
    if (tanh_form(call)) {
      const double t = tanh_of_gelu(x);
      const double inner = std::sqrt(2.0 / std::numbers::pi) * (1.0 + 3.0 * kGeluCubic * x * x);
      slope = 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner;
    }
    call.outputs[0].as<double>()[i] = call.inputs[0].as<double>()[i] * slope;
  }
}

void swiglu(const OpCall& call) {
  for (int64_t i = 0; i < call.inputs[0].elements(); ++i) {
    const double gate = call.inputs[0].as<double>()[i];
    call.outputs[0].as<double>()[i] = gate * sigmoid(gate) * call.inputs[1].as<double>()[i];
  }
}

void swiglu_backward(const OpCall& call) {
  for (int64_t i = 0; i < call.inputs[0].elements(); ++i) {
    const double dy = call.inputs[0].as<double>()[i];
    const double gate = call.inputs[1].as<double>()[i];
    const double up = call.inputs[2].as<double>()[i];
    const double s = sigmoid(gate);
    call.outputs[0].as<double>()[i] = dy * up * s * (1.0 + gate * (1.0 - s));
    call.outputs[1].as<double>()[i] = dy * gate * s;
  }
}

void add(const OpCall& call) {
  for (int64_t i = 0; i < call.inputs[0].elements(); ++i) {
    call.outputs[0].as<double>()[i] =
        call.inputs[0].as<double>()[i] + call.inputs[1].as<double>()[i];
  }
}

double dropout_factor(const OpRuntime& runtime, float p, uint32_t site, int64_t index) {
  const auto at = static_cast<uint64_t>(index);
  const auto words = philox(runtime.random_key, site, at / 4);
  return uniform_from_bits(words.at(at % 4)) >= p ? 1.0 / (1.0 - static_cast<double>(p)) : 0.0;
}

void dropout(const OpCall& call) {
  const auto& params = std::get<DropoutParams>(call.params);
  for (int64_t i = 0; i < call.inputs[0].elements(); ++i) {
    call.outputs[0].as<double>()[i] =
        call.inputs[0].as<double>()[i] * dropout_factor(call.runtime, params.p, params.site, i);
  }
}

}  // namespace hetmem::ops::reference
