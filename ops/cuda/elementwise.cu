// Ops whose threads share nothing: each element is read before the one thread that owns it writes,
// so that results may lie over the operands that the table of ops names.
#include "ops/cuda/kernels.h"
#include "ops/cuda/philox.h"

namespace hetmem::ops::HETMEM_CUDA_NAMESPACE {
namespace {

struct Clear {
  float* to;
  __device__ void operator()(int64_t i) const { to[i] = 0.0F; }
};

// Element i of the pairs of a row: (head, place in the half).
struct Rope {
  const float* x;
  const float* table;
  float* y;
  int64_t time;
  int64_t half;
  int64_t pairs;  // of a row
  float sign;
  __device__ void operator()(int64_t i) const {
    const int64_t row = i / pairs;
    const int64_t head = i % pairs / half;
    const int64_t place = i % half;
    const float* angles = table + row % time * 2 * half;
    const float cosine = angles[place];
    const float sine = sign * angles[half + place];
    const int64_t at = row * 2 * pairs + head * 2 * half + place;
    const float a = x[at];
    const float b = x[at + half];
    y[at] = a * cosine - b * sine;
    y[at + half] = b * cosine + a * sine;
  }
};

constexpr float kSqrt2OverPi = 0.7978845608028654F;
constexpr float kSqrtHalf = 0.7071067811865476F;
constexpr float kNormalDensity = 0.3989422804014327F;  // 1 / sqrt(2 pi)
constexpr float kGeluCubic = 0.044715F;

__device__ float gelu_tanh(float x) { return tanhf(kSqrt2OverPi * (x + kGeluCubic * x * x * x)); }
__device__ float normal_distribution(float x) { return 0.5F * (1.0F + erff(x * kSqrtHalf)); }

struct Gelu {
  const float* x;
  float* y;
  bool tanh_form;
  __device__ void operator()(int64_t i) const {
    const float v = x[i];
    y[i] = tanh_form ? 0.5F * v * (1.0F + gelu_tanh(v)) : v * normal_distribution(v);
  }
};

struct GeluBackward {
  const float* dy;
  const float* x;
  float* dx;
  bool tanh_form;
  __device__ void operator()(int64_t i) const {
    const float v = x[i];
    float slope = 0.0F;
    if (tanh_form) {
      const float t = gelu_tanh(v);
      const float inner = kSqrt2OverPi * (1.0F + 3.0F * kGeluCubic * v * v);
      slope = 0.5F * (1.0F + t) + 0.5F * v * (1.0F - t * t) * inner;
    } else {
      slope = normal_distribution(v) + v * kNormalDensity * expf(-0.5F * v * v);
    }
    dx[i] = dy[i] * slope;
  }
};

__device__ float sigmoid(float x) { return 1.0F / (1.0F + expf(-x)); }

struct Swiglu {
  const float* gate;
  const float* up;
  float* y;
  __device__ void operator()(int64_t i) const { y[i] = gate[i] * sigmoid(gate[i]) * up[i]; }
};

struct SwigluBackward {
  const float* dy;
  const float* gate;
  const float* up;
  float* dgate;
  float* dup;
  __device__ void operator()(int64_t i) const {
    const float g = gate[i];
    const float u = up[i];
    const float d = dy[i];
    const float s = sigmoid(g);
    dup[i] = d * g * s;
    dgate[i] = d * u * (s * (1.0F + g * (1.0F - s)));
  }
};

struct Add {
  const float* a;
  const float* b;
  float* y;
  __device__ void operator()(int64_t i) const { y[i] = a[i] + b[i]; }
};

// Four elements, the words of one counter.
struct DropElements {
  const float* x;
  float* y;
  int64_t count;
  Dropout draws;
  __device__ void operator()(int64_t i) const {
    const PhiloxWords drawn = philox(draws.key, draws.site, static_cast<uint64_t>(i));
    HETMEM_UNROLL
    for (int j = 0; j < 4; ++j) {
      const int64_t at = i * 4 + j;
      if (at >= count) break;
      y[at] = uniform_from_bits(drawn.words[j]) >= draws.p ? x[at] * draws.kept : 0.0F;
    }
  }
};

bool tanh_form(const OpCall& call) { return std::get<GeluParams>(call.params).tanh; }
int64_t elements(const OpCall& call) { return call.inputs[0].elements(); }
float* in(const OpCall& call, size_t i) { return call.inputs[i].as<float>(); }
float* out(const OpCall& call, size_t i) { return call.outputs[i].as<float>(); }

}  // namespace

void clear(const Queue& queue, float* to, int64_t count) { for_each(queue, count, Clear{to}); }

void rope(const Queue& queue, const OpCall& call) {
  const auto& params = std::get<RopeParams>(call.params);
  const Shape& shape = call.inputs[0].shape;
  for_each(queue, elements(call) / 2,
           Rope{in(call, 0), in(call, 1), out(call, 0), shape[1], params.head_dim / 2,
                shape[-1] / 2, params.inverse ? -1.0F : 1.0F});
}

void gelu(const Queue& queue, const OpCall& call) {
  for_each(queue, elements(call), Gelu{in(call, 0), out(call, 0), tanh_form(call)});
}

void gelu_backward(const Queue& queue, const OpCall& call) {
  for_each(queue, elements(call),
           GeluBackward{in(call, 0), in(call, 1), out(call, 0), tanh_form(call)});
}

void swiglu(const Queue& queue, const OpCall& call) {
  for_each(queue, elements(call), Swiglu{in(call, 0), in(call, 1), out(call, 0)});
}

void swiglu_backward(const Queue& queue, const OpCall& call) {
  for_each(queue, elements(call),
           SwigluBackward{in(call, 0), in(call, 1), in(call, 2), out(call, 0), out(call, 1)});
}

void add(const Queue& queue, const OpCall& call) {
  for_each(queue, elements(call), Add{in(call, 0), in(call, 1), out(call, 0)});
}

void dropout(const Queue& queue, const OpCall& call) {
  const auto& params = std::get<DropoutParams>(call.params);
  for_each(queue, (elements(call) + 3) / 4,
           DropElements{in(call, 0), out(call, 0), elements(call),
                        dropout_of(call.runtime, params.p, params.site)});
}

}  // namespace hetmem::ops::HETMEM_CUDA_NAMESPACE
