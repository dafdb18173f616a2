// Attention over a cache and matrix-vector products, against sums in double.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/philox.h"
#include "device/stream.h"
#include "device/thread_pool.h"
#include "ops/cpu/gemm.h"
#include "ops/ops.h"

namespace hetmem {
namespace {

std::vector<float> numbers(int64_t count, uint64_t stream) {
  std::vector<float> values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<float>(normal_pair(1, stream, i)[0]);
  }
  return values;
}

TensorView view(std::vector<float>& data, const Shape& shape) {
  return {data.data(), DType::kFloat32, shape, MemorySpace::kDevice};
}

struct AttentionCase {
  int64_t heads;
  int64_t kv_heads;
  int64_t head_dim;
  bool packed;
};

// o of query `time` in a sequence of [time, width] rows of q, k and v.
std::vector<double> expected_row(const AttentionCase& c, double scale, const std::vector<float>& q,
                                 const std::vector<float>& k, const std::vector<float>& v,
                                 int64_t time) {
  const int64_t q_width = c.heads * c.head_dim;
  const int64_t kv_width = c.kv_heads * c.head_dim;
  std::vector<double> o(static_cast<size_t>(q_width), 0.0);
  for (int64_t head = 0; head < c.heads; ++head) {
    const int64_t column = head / (c.heads / c.kv_heads) * c.head_dim;
    std::vector<double> weights;
    double sum = 0;
    for (int64_t key = 0; key <= time; ++key) {
      double score = 0;
      for (int64_t i = 0; i < c.head_dim; ++i) {
        score +=
            static_cast<double>(q[static_cast<size_t>(time * q_width + head * c.head_dim + i)]) *
            k[static_cast<size_t>(key * kv_width + column + i)];
      }
      weights.push_back(std::exp(score * scale));
      sum += weights.back();
    }
    for (int64_t key = 0; key <= time; ++key) {
      for (int64_t i = 0; i < c.head_dim; ++i) {
        o[static_cast<size_t>(head * c.head_dim + i)] +=
            weights[static_cast<size_t>(key)] / sum *
            v[static_cast<size_t>(key * kv_width + column + i)];
      }
    }
  }
  return o;
}

std::vector<float> rows_of(const std::vector<float>& all, int64_t width, int64_t first,
                           int64_t count) {
  return {all.begin() + first * width, all.begin() + (first + count) * width};
}

class CachedAttention : public testing::TestWithParam<AttentionCase> {};

TEST_P(CachedAttention, AgreesWithAttentionOverTheWholeSequence) {
  const AttentionCase c = GetParam();
  const int64_t total = 300;
  const int64_t q_width = c.heads * c.head_dim;
  const int64_t kv_width = c.kv_heads * c.head_dim;
  const std::vector<float> q = numbers(total * q_width, 1);
  const std::vector<float> k = numbers(total * kv_width, 2);
  const std::vector<float> v = numbers(total * kv_width, 3);
  AttentionParams params;
  params.heads = c.heads;
  params.kv_heads = c.kv_heads;
  params.head_dim = c.head_dim;
  params.packed = c.packed;
  params.scale = 0.3F;
  std::vector<float> keys(static_cast<size_t>(total * kv_width));
  std::vector<float> values = keys;
  ThreadPool pool(2);
  CpuStream stream("compute", pool);
  int64_t position = 0;
  // Chunks that end within and at the tiles of the kernel, and single tokens.
  for (const int64_t count : {5, 1, 1, 64, 120, 1, 65, 1, 42}) {
    std::vector<float> new_q = rows_of(q, q_width, position, count);
    std::vector<float> new_k = rows_of(k, kv_width, position, count);
    std::vector<float> new_v = rows_of(v, kv_width, position, count);
    std::vector<float> qkv;
    for (int64_t row = 0; row < count; ++row) {
      for (const auto& [part, width] :
           {std::pair(&new_q, q_width), std::pair(&new_k, kv_width), std::pair(&new_v, kv_width)}) {
        qkv.insert(qkv.end(), part->begin() + row * width, part->begin() + (row + 1) * width);
      }
    }
    std::vector<float> o(static_cast<size_t>(count * q_width));
    std::vector<float> lse(static_cast<size_t>(count * c.heads));
    OpCall call;
    call.kind = OpKind::kAttention;
    call.params = params;
    if (c.packed) {
      call.inputs = {view(qkv, {1, count, q_width + 2 * kv_width})};
    } else {
      call.inputs = {view(new_q, {1, count, q_width}), view(new_k, {1, count, kv_width}),
                     view(new_v, {1, count, kv_width})};
    }
    call.outputs = {view(o, {1, count, q_width}), view(lse, {1, c.heads, count})};
    ops::cached_attention(stream, call,
                          {view(keys, {c.kv_heads, total, c.head_dim}),
                           view(values, {c.kv_heads, total, c.head_dim}), position});
    stream.synchronize();
    for (int64_t row = 0; row < count; ++row) {
      const std::vector<double> expected = expected_row(c, params.scale, q, k, v, position + row);
      for (int64_t i = 0; i < q_width; ++i) {
        ASSERT_NEAR(o[static_cast<size_t>(row * q_width + i)], expected[static_cast<size_t>(i)],
                    2e-5)
            << "position " << position + row << ", column " << i;
      }
    }
    position += count;
  }
  EXPECT_EQ(position, total);
  for (int64_t time = 0; time < total; ++time) {
    for (int64_t j = 0; j < kv_width; ++j) {
      const auto from = static_cast<size_t>(time * kv_width + j);
      const auto to =
          static_cast<size_t>((j / c.head_dim * total + time) * c.head_dim + j % c.head_dim);
      ASSERT_EQ(keys[to], k[from]);
      ASSERT_EQ(values[to], v[from]);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Heads, CachedAttention,
                         testing::Values(AttentionCase{4, 4, 16, true},
                                         AttentionCase{6, 2, 64, false},
                                         AttentionCase{7, 1, 20, false},
                                         AttentionCase{2, 2, 13, true}));

TEST(MatrixVector, AgreesWithSumsInDouble) {
  const int64_t n = 333;
  for (const int64_t k : {1, 15, 64, 211, 1000}) {
    for (const bool transposed : {true, false}) {
      const std::vector<float> a = numbers(k, 4);
      const std::vector<float> b = numbers(n * k, 5);
      const std::vector<float> before = numbers(n, 6);
      for (const float beta : {0.0F, 1.0F}) {
        std::vector<float> one = before;
        std::vector<float> two = before;
        std::vector<int> finished(static_cast<size_t>(n), 0);
        const auto note = [&](int64_t row, int64_t rows, int64_t column, int64_t columns) {
          EXPECT_EQ(row, 0);
          EXPECT_EQ(rows, 1);
          for (int64_t j = column; j < column + columns; ++j) ++finished[static_cast<size_t>(j)];
        };
        const int64_t stride = transposed ? k : n;
        const ops::cpu::GemmShape shape{1, n, k, false, transposed};
        ThreadPool single(1);
        ThreadPool several(2);
        ops::cpu::gemm(single, shape, a.data(), k, b.data(), stride, beta, one.data(), n);
        ops::cpu::gemm(several, shape, a.data(), k, b.data(), stride, beta, two.data(), n, note);
        EXPECT_EQ(one, two) << "the number of threads changed bits";
        EXPECT_EQ(std::count(finished.begin(), finished.end(), 1), n);
        for (int64_t j = 0; j < n; ++j) {
          double sum = static_cast<double>(beta) * before[static_cast<size_t>(j)];
          double size = std::abs(sum);
          for (int64_t i = 0; i < k; ++i) {
            const double term = static_cast<double>(a[static_cast<size_t>(i)]) *
                                b[static_cast<size_t>(transposed ? j * k + i : i * n + j)];
            sum += term;
            size += std::abs(term);
          }
          // No sum is worse than k roundings of its size.
          ASSERT_NEAR(one[static_cast<size_t>(j)], sum, size * 6e-8 * static_cast<double>(k + 1));
        }
      }
    }
  }
}

}  // namespace
}  // namespace hetmem
