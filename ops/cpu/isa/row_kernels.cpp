#include "ops/cpu/isa/row_kernels.h"

#include <immintrin.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numbers>

#include "ops/cpu/isa/vector_math.h"

namespace hetmem::ops::cpu::HETMEM_ISA {
namespace {

// ---- norms ------------------------------------------------------------------------------------

NormRow layer_norm_row(const float* x, const float* w, const float* b, float eps, float* y,
                       int64_t n) {
  const float count = static_cast<float>(n);
  const float mean = sum_over<float>(n, [=](int64_t i) { return x[i]; }) / count;
  const float variance = sum_over<float>(n,
                                         [=](int64_t i) {
                                           const float d = x[i] - mean;
                                           return d * d;
                                         }) /
                         count;
  const float rstd = 1.0F / std::sqrt(variance + eps);
  for (int64_t i = 0; i < n; ++i) y[i] = (x[i] - mean) * rstd * w[i] + b[i];
  return {mean, rstd};
}

float rms_norm_row(const float* x, const float* w, float eps, float* y, int64_t n) {
  const float mean_square =
      sum_over<float>(n, [=](int64_t i) { return x[i] * x[i]; }) / static_cast<float>(n);
  const float rstd = 1.0F / std::sqrt(mean_square + eps);
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] * rstd * w[i];
  return rstd;
}

// dx may be the memory of dy or of the addend: each element is read before it is written.
void layer_norm_backward_row(const float* dy, const float* x, const float* w, NormRow stats,
                             const float* addend, float* dx, float* dw, float* db, int64_t n) {
  const float mean = stats.mean;
  const float rstd = stats.rstd;
  const float count = static_cast<float>(n);
  const float mean_g = sum_over<float>(n, [=](int64_t i) { return dy[i] * w[i]; }) / count;
  const float mean_gx =
      sum_over<float>(n, [=](int64_t i) { return dy[i] * w[i] * ((x[i] - mean) * rstd); }) / count;
  for (int64_t i = 0; i < n; ++i) {
    const float normed = (x[i] - mean) * rstd;
    const float g = dy[i];
    dw[i] += g * normed;
    db[i] += g;
    const float d = (g * w[i] - mean_g - normed * mean_gx) * rstd;
    dx[i] = addend != nullptr ? d + addend[i] : d;
  }
}

void rms_norm_backward_row(const float* dy, const float* x, const float* w, float rstd,
                           const float* addend, float* dx, float* dw, int64_t n) {
  const float mean_gx =
      sum_over<float>(n, [=](int64_t i) { return dy[i] * w[i] * (x[i] * rstd); }) /
      static_cast<float>(n);
  for (int64_t i = 0; i < n; ++i) {
    const float normed = x[i] * rstd;
    const float g = dy[i];
    dw[i] += g * normed;
    const float d = (g * w[i] - normed * mean_gx) * rstd;
    dx[i] = addend != nullptr ? d + addend[i] : d;
  }
}

// ---- element-wise -----------------------------------------------------------------------------

void rope_row(const float* x, const float* table, bool inverse, float* y, int64_t heads,
              int64_t head_dim) {
  const int64_t half = head_dim / 2;
  const float sign = inverse ? -1.0F : 1.0F;
  for (int64_t head = 0; head < heads; ++head) {
    const float* from = x + head * head_dim;
    float* to = y + head * head_dim;
    for (int64_t i = 0; i < half; ++i) {
      const float c = table[i];
      const float s = sign * table[half + i];
      const float a = from[i];
      const float b = from[half + i];
      to[i] = a * c - b * s;
      to[half + i] = b * c + a * s;
    }
  }
}

constexpr float kSqrt2OverPi = 0.7978845608028654F;
constexpr float kGeluCubic = 0.044715F;

void gelu(const float* x, float* y, int64_t n, bool tanh_form) {
  if (!tanh_form) {
    for (int64_t i = 0; i < n; ++i) {
      y[i] = 0.5F * x[i] * (1.0F + std::erf(x[i] * (1.0F / std::numbers::sqrt2_v<float>)));
    }
    return;
  }
  for (int64_t i = 0; i < n; ++i) {
    const float v = x[i];
    const float inner = kSqrt2OverPi * (v + kGeluCubic * v * v * v);
    y[i] = 0.5F * v * (1.0F + vector_tanh(inner));
  }
}

void gelu_backward(const float* dy, const float* x, float* dx, int64_t n, bool tanh_form) {
  if (!tanh_form) {
    constexpr float kDensity = 0.3989422804014327F;  // 1 / sqrt(2 pi)
    for (int64_t i = 0; i < n; ++i) {
      const float v = x[i];
      const float cdf = 0.5F * (1.0F + std::erf(v * (1.0F / std::numbers::sqrt2_v<float>)));
      dx[i] = dy[i] * (cdf + v * kDensity * std::exp(-0.5F * v * v));
    }
    return;
  }
  for (int64_t i = 0; i < n; ++i) {
    const float v = x[i];
    const float t = vector_tanh(kSqrt2OverPi * (v + kGeluCubic * v * v * v));
    const float slope = kSqrt2OverPi * (1.0F + 3.0F * kGeluCubic * v * v);
    dx[i] = dy[i] * (0.5F * (1.0F + t) + 0.5F * v * (1.0F - t * t) * slope);
  }
}

void swiglu(const float* gate, const float* up, float* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = gate[i] * vector_sigmoid(gate[i]) * up[i];
}

void swiglu_backward(const float* dy, const float* gate, const float* up, float* dgate, float* dup,
                     int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const float g = gate[i];
    const float u = up[i];
    const float d = dy[i];
    const float s = vector_sigmoid(g);
    dup[i] = d * g * s;
    dgate[i] = d * u * (s * (1.0F + g * (1.0F - s)));
  }
}

void add(const float* a, const float* b, float* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = a[i] + b[i];
}

void add_bias(const float* bias, float* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] += bias[i];
}

// The nearest bf16, ties to even, in the upper half; the lower half is of no meaning. A NaN stays
// one.
inline uint32_t round_to_upper_half(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  const bool is_nan = (bits & 0x7fffffffU) > 0x7f800000U;
  return is_nan ? bits | 0x400000U : bits + 0x7fffU + ((bits >> 16) & 1U);
}
inline float widened(uint16_t x) { return std::bit_cast<float>(static_cast<uint32_t>(x) << 16); }

#ifdef __AVX512F__
// By the processor's own conversion (subnormal numbers count as zero there, as they do in its
// products), reading ahead: weights come from memory. Called where has_native_bf16() says so.
__attribute__((target("avx512bf16"))) void to_bf16(const float* x, uint16_t* y, int64_t n) {
  constexpr int64_t kAhead = 512;  // elements
  constexpr int64_t kLine = 16;
  int64_t i = 0;
  for (; i + 2 * kLine <= n; i += 2 * kLine) {
    __builtin_prefetch(x + i + kAhead);
    __builtin_prefetch(x + i + kAhead + kLine);
    const __m512bh pair =
        _mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + i + kLine), _mm512_loadu_ps(x + i));
    std::memcpy(y + i, &pair, sizeof(pair));
  }
  for (; i < n; i += kLine) {
    const auto mask = static_cast<__mmask16>((1U << std::min(kLine, n - i)) - 1U);
    const __m256bh part = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, x + i));
    std::memcpy(y + i, &part, sizeof(uint16_t) * static_cast<size_t>(std::min(kLine, n - i)));
  }
}
#else
void to_bf16(const float* x, uint16_t* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = static_cast<uint16_t>(round_to_upper_half(x[i]) >> 16);
}
#endif

void round_to_bf16(const float* x, float* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    y[i] = std::bit_cast<float>(round_to_upper_half(x[i]) & 0xffff0000U);
  }
}

void from_bf16(const uint16_t* x, float* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = widened(x[i]);
}

void add_bf16(const uint16_t* x, float* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] += widened(x[i]);
}

// ---- head -------------------------------------------------------------------------------------

float row_max(const float* x, int64_t n) {
  float lanes[kLanes];
  std::fill(lanes, lanes + kLanes, -std::numeric_limits<float>::infinity());
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      lanes[lane] = x[i + lane] > lanes[lane] ? x[i + lane] : lanes[lane];
    }
  }
  float most = *std::max_element(lanes, lanes + kLanes);
  for (; i < n; ++i) most = std::max(most, x[i]);
  return most;
}

double cross_entropy_row(float* logits, int64_t n, int64_t label, float scale, bool gradient) {
  const float most = row_max(logits, n);
  const float target = logits[label];
  if (!gradient) {
    const float sum = sum_over<float>(n, [=](int64_t i) { return vector_exp(logits[i] - most); });
    return std::log(static_cast<double>(sum)) + most - target;
  }
  const float sum = sum_over<float>(n, [=](int64_t i) {
    const float e = vector_exp(logits[i] - most);
    logits[i] = e;
    return e;
  });
  const float factor = scale / sum;
  for (int64_t i = 0; i < n; ++i) logits[i] *= factor;
  logits[label] -= scale;
  return std::log(static_cast<double>(sum)) + most - target;
}

}  // namespace

extern const KernelTable kernel_table_of_isa;
const KernelTable kernel_table_of_isa{layer_norm_row,
                                      rms_norm_row,
                                      layer_norm_backward_row,
                                      rms_norm_backward_row,
                                      rope_row,
                                      gelu,
                                      gelu_backward,
                                      swiglu,
                                      swiglu_backward,
                                      add,
                                      add_bias,
                                      to_bf16,
                                      round_to_bf16,
                                      from_bf16,
                                      add_bf16,
                                      cross_entropy_row,
                                      gemv_rows,
                                      gemv_columns,
                                      adamw,
                                      sgd,
                                      join_masters,
                                      split_masters,
                                      decode_moments,
                                      encode_moments,
                                      adamw_8bit,
                                      adamw_8bit_split,
                                      sum_of_squares,
                                      attention_forward,
                                      attention_decode,
                                      attention_backward};

}  // namespace hetmem::ops::cpu::HETMEM_ISA
