// Products of operands in bf16, by either path, on shapes that are cut into panels and tiles.
#include "ops/cpu/gemm_bf16.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <memory>
#include <tuple>
#include <vector>

#include "device/thread_pool.h"
#include "error_bound.h"
#include "op_case.h"
#include "ops/ops.h"

namespace hetmem::testing_ops {
namespace {

using ops::cpu::GemmOperand;
using ops::cpu::GemmShape;

constexpr int64_t kGap = 3;  // columns between the rows of an operand

// A stored matrix of normal numbers; what lies between its rows is NaN.
struct Matrix {
  Matrix(int64_t row_count, int64_t width, uint64_t stream)
      : rows(row_count), columns(width), stride(width + kGap) {
    const Operand drawn = normal({rows, columns}, stream);
    numbers.assign(static_cast<size_t>(rows * stride), NAN);
    for (int64_t i = 0; i < rows * columns; ++i) {
      at(i / columns, i % columns) = static_cast<float>(drawn.numbers[static_cast<size_t>(i)]);
    }
  }
  float& at(int64_t row, int64_t column) {
    return numbers[static_cast<size_t>(row * stride + column)];
  }
  // Rounded to bf16.
  std::vector<uint16_t> halves() const {
    std::vector<uint16_t> all;
    for (const float number : numbers) all.push_back(bf16_from_float(number));
    return all;
  }

  int64_t rows;
  int64_t columns;
  int64_t stride;
  std::vector<float> numbers;
};

// A path, called with the workspace that it asks for.
struct Path {
  const char* name;
  int64_t (*workspace)(const GemmShape&, DType);
  decltype(&ops::cpu::gemm_bf16_widened) multiply;
};
Path path_of(bool native) {
  if (native) {
    return {"native", ops::cpu::gemm_bf16_native_workspace, ops::cpu::gemm_bf16_native};
  }
  return {
      "in_fp32",
      [](const GemmShape& shape, DType) { return ops::cpu::gemm_bf16_widened_workspace(shape); },
      ops::cpu::gemm_bf16_widened};
}

struct Product {
  explicit Product(const GemmShape& of)
      : shape(of),
        a(of.transpose_a ? of.k : of.m, of.transpose_a ? of.m : of.k, 1),
        b(of.transpose_b ? of.n : of.k, of.transpose_b ? of.k : of.n, 2),
        c(of.m, of.n, 3) {}

  // The result, beside C as it was where `beta` is 0: it must not be read.
  std::vector<float> run(const Path& path, const GemmOperand& right, float beta,
                         int threads) const {
    ThreadPool pool(threads);
    std::vector<float> result = c.numbers;
    if (beta == 0.0F) std::fill(result.begin(), result.end(), NAN);
    const auto bytes = static_cast<size_t>(path.workspace(shape, right.dtype));
    constexpr size_t kAlignment = 64;
    const std::unique_ptr<void, decltype(&std::free)> workspace(
        std::aligned_alloc(kAlignment, (bytes / kAlignment + 1) * kAlignment), &std::free);
    path.multiply(pool, shape, a.numbers.data(), a.stride, right, beta, result.data(), c.stride,
                  workspace.get(), [&](int64_t row, int64_t rows, int64_t column, int64_t columns) {
                    for (int64_t i = row; i < row + rows; ++i) {
                      for (int64_t j = column; j < column + columns; ++j) {
                        result[static_cast<size_t>(i * c.stride + j)] += 1.0F;  // once, at the end
                      }
                    }
                  });
    return result;
  }

  GemmShape shape;
  Matrix a;
  Matrix b;
  Matrix c;
};

// Each element against a sum in double of products of rounded numbers, which are exact: k additions
// and two more are off by 2^-24 of the absolute sum each.
void expect_product(const Product& of, float beta, const std::vector<float>& actual) {
  const auto rounded = [](const Matrix& matrix, bool transposed, int64_t row, int64_t column) {
    const int64_t at = transposed ? column * matrix.stride + row : row * matrix.stride + column;
    return static_cast<double>(
        float_from_bf16(bf16_from_float(matrix.numbers[static_cast<size_t>(at)])));
  };
  const GemmShape& shape = of.shape;
  std::vector<double> left(static_cast<size_t>(shape.k));
  for (int64_t i = 0; i < shape.m; i += 7) {
    for (int64_t d = 0; d < shape.k; ++d) {
      left[static_cast<size_t>(d)] = rounded(of.a, shape.transpose_a, i, d);
    }
    for (int64_t j = 0; j < shape.n; ++j) {
      const auto at = static_cast<size_t>(i * of.c.stride + j);
      double sum = 1.0 + (beta == 0.0F ? 0.0 : static_cast<double>(of.c.numbers[at]));
      double size = std::abs(sum);
      for (int64_t d = 0; d < shape.k; ++d) {
        const double term = left[static_cast<size_t>(d)] * rounded(of.b, shape.transpose_b, d, j);
        sum += term;
        size += std::abs(term);
      }
      ASSERT_NEAR(actual[at], sum, static_cast<double>(shape.k + 2) * kUnit * size)
          << "element " << i << ", " << j;
    }
  }
}

class GemmBf16 : public testing::TestWithParam<std::tuple<bool, GemmShape>> {
 protected:
  void SetUp() override {
    if (std::get<0>(GetParam()) && !ops::has_native_bf16()) {
      GTEST_SKIP() << "this processor has no AVX-512 BF16, or HETMEM_ISA lowers it";
    }
  }
};

TEST_P(GemmBf16, IsTheProductOfRoundedOperandsForAnyNumberOfThreads) {
  const Path path = path_of(std::get<0>(GetParam()));
  const Product product(std::get<1>(GetParam()));
  for (const float beta : {0.0F, 1.0F}) {
    const GemmOperand right{product.b.numbers.data(), product.b.stride};
    const std::vector<float> one = product.run(path, right, beta, 1);
    expect_product(product, beta, one);
    for (const int threads : {2, 5}) {
      const std::vector<float> more = product.run(path, right, beta, threads);
      for (int64_t i = 0; i < product.shape.m; ++i) {
        const int64_t begin = i * product.c.stride;
        EXPECT_TRUE(std::equal(one.begin() + begin, one.begin() + begin + product.shape.n,
                               more.begin() + begin));
      }
    }
  }
}

TEST_P(GemmBf16, ReadsAWeightInBf16AsItIs) {
  const Path path = path_of(std::get<0>(GetParam()));
  const Product product(std::get<1>(GetParam()));
  if (product.shape.transpose_a) return;  // B is no weight
  const std::vector<uint16_t> halves = product.b.halves();
  const GemmOperand right{halves.data(), product.b.stride, DType::kBFloat16};
  expect_product(product, 1.0F, product.run(path, right, 1.0F, 2));
}

INSTANTIATE_TEST_SUITE_P(Shapes, GemmBf16,
                         testing::Combine(testing::Bool(),
                                          testing::Values(GemmShape{33, 190, 1700, false, true},
                                                          GemmShape{150, 2100, 70, false, false},
                                                          GemmShape{1, 130, 97, false, true},
                                                          GemmShape{2500, 90, 33, false, false},
                                                          GemmShape{1300, 77, 800, true, false},
                                                          GemmShape{64, 1500, 41, true, false})),
                         [](const auto& tested) {
                           const GemmShape& shape = std::get<1>(tested.param);
                           return std::string(path_of(std::get<0>(tested.param)).name) + "_" +
                                  std::to_string(shape.m) + "_" + std::to_string(shape.n) + "_" +
                                  std::to_string(shape.k);
                         });

}  // namespace
}  // namespace hetmem::testing_ops
