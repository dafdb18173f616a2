// exp and friends as straight-line arithmetic that the compiler vectorises, and sums over fixed
// lanes. Included by the sources of ops/cpu/isa only.
#pragma once

#include <immintrin.h>

#include <bit>
#include <cstdint>

namespace hetmem::ops::cpu {
namespace HETMEM_ISA {

constexpr int kLanes = 16;

// A register of floats, for the loops in which the compiler does not keep its sums in registers by
// itself.
#ifdef __AVX512F__
using Vector = __m512;
inline Vector load(const float* from) { return _mm512_loadu_ps(from); }
inline void store(float* to, Vector x) { _mm512_storeu_ps(to, x); }
inline Vector spread(float x) { return _mm512_set1_ps(x); }
inline Vector fused(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
inline Vector square_root(Vector x) { return _mm512_maskz_sqrt_ps(0xffff, x); }
#else
using Vector = __m256;
inline Vector load(const float* from) { return _mm256_loadu_ps(from); }
inline void store(float* to, Vector x) { _mm256_storeu_ps(to, x); }
inline Vector spread(float x) { return _mm256_set1_ps(x); }
inline Vector fused(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
inline Vector square_root(Vector x) { return _mm256_sqrt_ps(x); }
#endif
inline float square_root(float x) { return __builtin_sqrtf(x); }
constexpr int64_t kVectorWidth = sizeof(Vector) / sizeof(float);

// exp(x) within 2 ulp: x = n ln 2 + r, a polynomial in r, the exponent put in as bits; 0 below the
// smallest normal number, inf above the largest.
inline float vector_exp(float x) {
  constexpr float kLog2E = 1.44269504088896341F;
  constexpr float kLn2High = 0.693359375F;
  constexpr float kLn2Low = -2.12194440e-4F;
  constexpr float kRounder = 12582912.0F;  // 1.5 * 2^23: adding it rounds to a whole number
  const float bounded = x < -88.0F ? -88.0F : (x > 89.0F ? 89.0F : x);
  const float n = (bounded * kLog2E + kRounder) - kRounder;
  float r = __builtin_fmaf(n, -kLn2High, bounded);
  r = __builtin_fmaf(n, -kLn2Low, r);
  float p = 1.9875691500e-4F;
  p = __builtin_fmaf(p, r, 1.3981999507e-3F);
  p = __builtin_fmaf(p, r, 8.3334519073e-3F);
  p = __builtin_fmaf(p, r, 4.1665795894e-2F);
  p = __builtin_fmaf(p, r, 1.6666665459e-1F);
  p = __builtin_fmaf(p, r, 5.0000001201e-1F);
  p = __builtin_fmaf(p, r * r, r + 1.0F);
  // 2^n in two halves, so that 2^128 does not overflow on the way.
  const auto whole = static_cast<int32_t>(n);
  const int32_t half = whole >> 1;
  const float low = std::bit_cast<float>((half + 127) << 23);
  const float high = std::bit_cast<float>((whole - half + 127) << 23);
  const float value = p * low * high;
  const float kept = x < -87.33654F ? 0.0F : value;
  return x != x ? x : kept;
}

inline float vector_tanh(float x) { return 1.0F - 2.0F / (vector_exp(2.0F * x) + 1.0F); }
inline float vector_sigmoid(float x) { return 1.0F / (1.0F + vector_exp(-x)); }

// The lanes added as a tree.
template <typename Real>
inline Real lane_sum(Real* lanes) {
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  return lanes[0];
}

// The sum of term(i) over [0, n) in 16 lanes; element i goes to lane i % 16.
template <typename Real, typename Term>
inline Real sum_over(int64_t n, Term term) {
  Real lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += term(i + lane);
  }
  for (int lane = 0; i + lane < n; ++lane) lanes[lane] += term(i + lane);
  return lane_sum(lanes);
}

}  // namespace HETMEM_ISA
}  // namespace hetmem::ops::cpu
