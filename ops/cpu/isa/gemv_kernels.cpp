// Products of a matrix and one vector, which are bound by reading the matrix: it is read once, in
// order.
#include "ops/cpu/isa/row_kernels.h"
#include "ops/cpu/isa/vector_math.h"

namespace hetmem::ops::cpu::HETMEM_ISA {
namespace {

constexpr int kWide = 4 * kLanes;  // enough sums side by side to hide the latency of an addition

float dot(const float* a, const float* b, int64_t n) {
  float wide[kWide] = {};
  int64_t i = 0;
  for (; i + kWide <= n; i += kWide) {
    for (int lane = 0; lane < kWide; ++lane) {
      wide[lane] = __builtin_fmaf(a[i + lane], b[i + lane], wide[lane]);
    }
  }
  float lanes[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) {
    lanes[lane] =
        (wide[lane] + wide[lane + kLanes]) + (wide[lane + 2 * kLanes] + wide[lane + 3 * kLanes]);
  }
  for (; i + kLanes <= n; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      lanes[lane] = __builtin_fmaf(a[i + lane], b[i + lane], lanes[lane]);
    }
  }
  for (int lane = 0; i + lane < n; ++lane) lanes[lane] += a[i + lane] * b[i + lane];
  return lane_sum(lanes);
}

// y[0, columns) += x[0] w[0, :] + ... + x[kRows - 1] w[kRows - 1, :]
template <int kRows>
void add_rows(const float* w, int64_t stride, int64_t columns, const float* x, float* y) {
  for (int64_t j = 0; j < columns; ++j) {
    float sum = y[j];
    for (int row = 0; row < kRows; ++row) sum = __builtin_fmaf(x[row], w[row * stride + j], sum);
    y[j] = sum;
  }
}

}  // namespace

void gemv_rows(const float* w, int64_t stride, int64_t rows, const float* x, int64_t n, float beta,
               float* y) {
  for (int64_t row = 0; row < rows; ++row) {
    const float sum = dot(w + row * stride, x, n);
    y[row] = beta == 0.0F ? sum : sum + beta * y[row];
  }
}

void gemv_columns(const float* w, int64_t stride, int64_t columns, const float* x, int64_t n,
                  float beta, float* y) {
  for (int64_t j = 0; j < columns; ++j) y[j] = beta == 0.0F ? 0.0F : beta * y[j];
  int64_t row = 0;
  for (; row + 8 <= n; row += 8) add_rows<8>(w + row * stride, stride, columns, x + row, y);
  for (; row < n; ++row) add_rows<1>(w + row * stride, stride, columns, x + row, y);
}

}  // namespace hetmem::ops::cpu::HETMEM_ISA
