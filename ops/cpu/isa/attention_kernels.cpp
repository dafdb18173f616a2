// Causal attention of one head in tiles, with the online softmax of Milakov & Gimelshein (2018) and
// the backward pass of FlashAttention (Dao et al. 2022): probabilities are recomputed from the
// saved log-sum-exp, nothing T x T is kept.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/op.h"
#include "core/philox.h"
#include "ops/cpu/isa/row_kernels.h"
#include "ops/cpu/isa/vector_math.h"

namespace hetmem::ops::cpu::HETMEM_ISA {
namespace {

constexpr int64_t kTile = 64;  // queries and keys of a tile
constexpr int64_t kMaxHeadDim = 256;

// A matrix by the strides of its rows and of its columns, so that it may stand transposed.
struct Left {
  const float* data;
  int64_t row;
  int64_t column;
};

// C[kRows, columns] (+)= A[kRows, depth] B[depth, columns], the sums in registers. Every element is
// a sum over depth in order, whichever block it falls into.
template <int kRows, int kVectors>
void product_block(int64_t depth, const Left& a, const float* b, int64_t ldb, float* c, int64_t ldc,
                   bool accumulate) {
  Vector sum[kRows][kVectors];
  for (int r = 0; r < kRows; ++r) {
    for (int j = 0; j < kVectors; ++j) {
      sum[r][j] = accumulate ? load(c + r * ldc + j * kVectorWidth) : spread(0.0F);
    }
  }
  for (int64_t d = 0; d < depth; ++d) {
    Vector row[kVectors];
    for (int j = 0; j < kVectors; ++j) row[j] = load(b + d * ldb + j * kVectorWidth);
    for (int r = 0; r < kRows; ++r) {
      const Vector factor = spread(a.data[r * a.row + d * a.column]);
      for (int j = 0; j < kVectors; ++j) sum[r][j] = fused(factor, row[j], sum[r][j]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int j = 0; j < kVectors; ++j) store(c + r * ldc + j * kVectorWidth, sum[r][j]);
  }
}

// The same for the columns that no register fits.
template <int kRows, int kWidth>
void product_edge(int64_t depth, const Left& a, const float* b, int64_t ldb, float* c, int64_t ldc,
                  bool accumulate) {
  float sum[kRows][kWidth];
  for (int r = 0; r < kRows; ++r) {
    for (int j = 0; j < kWidth; ++j) sum[r][j] = accumulate ? c[r * ldc + j] : 0.0F;
  }
  for (int64_t d = 0; d < depth; ++d) {
    for (int r = 0; r < kRows; ++r) {
      const float factor = a.data[r * a.row + d * a.column];
      for (int j = 0; j < kWidth; ++j) {
        sum[r][j] = __builtin_fmaf(factor, b[d * ldb + j], sum[r][j]);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int j = 0; j < kWidth; ++j) c[r * ldc + j] = sum[r][j];
  }
}

#ifdef __AVX512F__
constexpr int kVectors = 4;  // 4 rows of them leave half of the 32 registers
#else
constexpr int kVectors = 2;
#endif
constexpr int64_t kWide = kVectors * kVectorWidth;

template <int kRows>
void product_rows(int64_t columns, int64_t depth, const Left& a, const float* b, int64_t ldb,
                  float* c, int64_t ldc, bool accumulate) {
  int64_t j = 0;
  for (; j + kWide <= columns; j += kWide) {
    product_block<kRows, kVectors>(depth, a, b + j, ldb, c + j, ldc, accumulate);
  }
  for (; j + 8 <= columns; j += 8) {
    product_edge<kRows, 8>(depth, a, b + j, ldb, c + j, ldc, accumulate);
  }
  for (; j < columns; ++j) {
    product_edge<kRows, 1>(depth, a, b + j, ldb, c + j, ldc, accumulate);
  }
}

// What the causal mask leaves of a product of a tile, where query i sees the keys up to i +
// diagonal.
enum class Causal {
  kAll,
  kColumns,    // rows are queries, columns keys: later keys are not computed
  kDepth,      // rows are queries, the sum is over keys: weights of later keys are 0
  kTransposed  // rows are keys, the sum is over queries: weights of earlier queries are 0
};

template <int kRows>
void product_strip(int64_t r, int64_t columns, int64_t depth, Left a, const float* b, int64_t ldb,
                   float* c, int64_t ldc, bool accumulate, Causal causal, int64_t diagonal) {
  const int64_t seen = std::max<int64_t>(0, r + kRows + diagonal);
  if (causal == Causal::kColumns) {
    columns = std::min(columns, (seen + kWide - 1) / kWide * kWide);
  } else if (causal == Causal::kDepth) {
    depth = std::min(depth, seen);
  } else if (causal == Causal::kTransposed) {
    const int64_t first = std::min(depth, std::max<int64_t>(0, r - diagonal));
    a.data += first * a.column;
    b += first * ldb;
    depth -= first;
  }
  a.data += r * a.row;
  product_rows<kRows>(columns, depth, a, b, ldb, c + r * ldc, ldc, accumulate);
}

// C[rows, columns] (+)= A[rows, depth] B[depth, columns].
void product(int64_t rows, int64_t columns, int64_t depth, const Left& a, const float* b,
             int64_t ldb, float* c, int64_t ldc, bool accumulate, Causal causal = Causal::kAll,
             int64_t diagonal = 0) {
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) {
    product_strip<4>(r, columns, depth, a, b, ldb, c, ldc, accumulate, causal, diagonal);
  }
  for (; r < rows; ++r) {
    product_strip<1>(r, columns, depth, a, b, ldb, c, ldc, accumulate, causal, diagonal);
  }
}

// to[column][row] = from[row][column]; `to` has kTile columns.
void transpose(int64_t rows, int64_t columns, const float* from, int64_t stride, float* to) {
  constexpr int64_t kTogether = 8;  // stores side by side
  int64_t r = 0;
  for (; r + kTogether <= rows; r += kTogether) {
    for (int64_t c = 0; c < columns; ++c) {
      for (int64_t i = 0; i < kTogether; ++i) to[c * kTile + r + i] = from[(r + i) * stride + c];
    }
  }
  for (; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) to[c * kTile + r] = from[r * stride + c];
  }
}

// 0 where the probability of (query, key) is dropped, else 1 / (1 - p).
float dropout_factor(const AttentionTile& tile, int64_t query, int64_t key) {
  const auto index = static_cast<uint64_t>(tile.draw_base + query * tile.time + key);
  const auto words = philox(tile.random_key, tile.dropout_site, index / 4);
  return uniform_from_bits(words[index % 4]) >= tile.dropout ? 1.0F / (1.0F - tile.dropout) : 0.0F;
}

struct ForwardTile {
  float keys[kMaxHeadDim * kTile];  // transposed
  float scores[kTile * kTile];
  float sum[kTile];
  float most[kTile];
};

// How many of the `count` keys of a tile query i sees.
int64_t seen_keys(int64_t i, int64_t diagonal, int64_t count) {
  return std::clamp<int64_t>(i + diagonal + 1, 0, count);
}

// Scores: scaled; -inf for keys that come after the query, which nothing has written.
void mask_and_scale(const AttentionTile& tile, int64_t rows, int64_t count, int64_t diagonal,
                    float* scores) {
  for (int64_t i = 0; i < rows; ++i) {
    float* row = scores + i * kTile;
    const int64_t seen = seen_keys(i, diagonal, count);
    for (int64_t j = 0; j < seen; ++j) row[j] *= tile.scale;
    std::fill(row + seen, row + count, -std::numeric_limits<float>::infinity());
  }
}

// The largest of `most` and x, in lanes.
float max_over(int64_t n, const float* x, float most) {
  float lanes[kLanes];
  std::fill(lanes, lanes + kLanes, most);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int l = 0; l < kLanes; ++l) lanes[l] = x[i + l] > lanes[l] ? x[i + l] : lanes[l];
  }
  for (; i < n; ++i) lanes[0] = x[i] > lanes[0] ? x[i] : lanes[0];
  for (const float lane : lanes) most = lane > most ? lane : most;
  return most;
}

// Takes one row of scores into the running softmax: scores become weights, `o` is rescaled.
void online_softmax(ForwardTile& work, int64_t i, int64_t count, float* o, int64_t head_dim) {
  float* row = work.scores + i * kTile;
  const float most = max_over(count, row, work.most[i]);
  const float shrink = vector_exp(work.most[i] - most);
  work.sum[i] = work.sum[i] * shrink + sum_over<float>(count, [=](int64_t j) {
                  const float e = vector_exp(row[j] - most);
                  row[j] = e;
                  return e;
                });
  work.most[i] = most;
  for (int64_t d = 0; d < head_dim; ++d) o[d] *= shrink;
}

}  // namespace

void attention_forward(const AttentionTile& tile, int64_t begin, int64_t end, const float* q,
                       int64_t q_stride, const float* k, const float* v, int64_t kv_stride,
                       float* o, int64_t o_stride, float* lse) {
  alignas(64) ForwardTile work;
  const int64_t d = tile.head_dim;
  for (int64_t q0 = begin; q0 < end; q0 += kTile) {
    const int64_t rows = std::min(kTile, end - q0);
    for (int64_t i = 0; i < rows; ++i) {
      work.sum[i] = 0.0F;
      work.most[i] = -std::numeric_limits<float>::infinity();
      std::memset(o + (q0 + i) * o_stride, 0, static_cast<size_t>(d) * sizeof(float));
    }
    const int64_t seen = tile.past + q0 + rows;
    for (int64_t k0 = 0; k0 < seen; k0 += kTile) {
      const int64_t count = std::min(kTile, seen - k0);
      const int64_t diagonal = tile.past + q0 - k0;
      transpose(count, d, k + k0 * kv_stride, kv_stride, work.keys);
      product(rows, count, d, {q + q0 * q_stride, q_stride, 1}, work.keys, kTile, work.scores,
              kTile, false, Causal::kColumns, diagonal);
      mask_and_scale(tile, rows, count, diagonal, work.scores);
      for (int64_t i = 0; i < rows; ++i) {
        online_softmax(work, i, count, o + (q0 + i) * o_stride, d);
        if (tile.dropout > 0) {
          for (int64_t j = 0; j < count; ++j) {
            work.scores[i * kTile + j] *= dropout_factor(tile, q0 + i, k0 + j);
          }
        }
      }
      product(rows, d, count, {work.scores, kTile, 1}, v + k0 * kv_stride, kv_stride,
              o + q0 * o_stride, o_stride, true, Causal::kDepth, diagonal);
    }
    for (int64_t i = 0; i < rows; ++i) {
      const float inverse = 1.0F / work.sum[i];
      float* row = o + (q0 + i) * o_stride;
      for (int64_t j = 0; j < d; ++j) row[j] *= inverse;
      lse[q0 + i] = work.most[i] + std::log(work.sum[i]);
    }
  }
}

void attention_decode(const AttentionTile& tile, int64_t heads, const float* q, const float* k,
                      const float* v, int64_t kv_stride, float* o) {
  alignas(64) float weights[kTile];
  float most[kDecodeHeads];
  float sum[kDecodeHeads] = {};
  const int64_t d = tile.head_dim;
  const int64_t keys = tile.past + 1;
  std::fill(most, most + heads, -std::numeric_limits<float>::infinity());
  std::memset(o, 0, static_cast<size_t>(heads * d) * sizeof(float));
  for (int64_t k0 = 0; k0 < keys; k0 += kTile) {
    const int64_t count = std::min(kTile, keys - k0);
    for (int64_t head = 0; head < heads; ++head) {
      const float* query = q + head * d;
      float* out = o + head * d;
      const float before = most[head];
      float now = before;
      for (int64_t j = 0; j < count; ++j) {
        const float* key = k + (k0 + j) * kv_stride;
        weights[j] = tile.scale * sum_over<float>(d, [=](int64_t i) { return query[i] * key[i]; });
        now = weights[j] > now ? weights[j] : now;
      }
      const float shrink = vector_exp(before - now);
      float* weight = weights;
      sum[head] = sum[head] * shrink + sum_over<float>(count, [=](int64_t j) {
                    weight[j] = vector_exp(weight[j] - now);
                    return weight[j];
                  });
      most[head] = now;
      for (int64_t i = 0; i < d; ++i) out[i] *= shrink;
      product(1, d, count, {weights, kTile, 1}, v + k0 * kv_stride, kv_stride, out, d, true);
    }
  }
  for (int64_t head = 0; head < heads; ++head) {
    const float inverse = 1.0F / sum[head];
    for (int64_t i = 0; i < d; ++i) o[head * d + i] *= inverse;
  }
}

namespace {

struct BackwardTile {
  float keys[kMaxHeadDim * kTile];    // transposed
  float values[kMaxHeadDim * kTile];  // transposed
  float weights[kTile * kTile];       // probabilities
  float slopes[kTile * kTile];        // gradients of the probabilities, then of the scores
};

// slopes = weights * (slopes - delta) * scale, with dropout in between; weights then hold what the
// values were multiplied with. Both are 0 for keys that come after the query.
void score_gradients(const AttentionTile& tile, BackwardTile& work, int64_t q0, int64_t rows,
                     int64_t k0, int64_t count, const float* lse, const float* delta) {
  for (int64_t i = 0; i < rows; ++i) {
    float* weight = work.weights + i * kTile;
    float* slope = work.slopes + i * kTile;
    const float shift = lse[q0 + i];
    const int64_t seen = seen_keys(i, tile.past + q0 - k0, count);
    std::fill(weight + seen, weight + count, 0.0F);
    std::fill(slope + seen, slope + count, 0.0F);
    for (int64_t j = 0; j < seen; ++j) weight[j] = vector_exp(weight[j] - shift);
    const float center = delta[i];
    if (tile.dropout > 0) {
      for (int64_t j = 0; j < seen; ++j) {
        const float factor = dropout_factor(tile, q0 + i, k0 + j);
        slope[j] = weight[j] * (slope[j] * factor - center) * tile.scale;
        weight[j] *= factor;
      }
    } else {
      for (int64_t j = 0; j < seen; ++j) slope[j] = weight[j] * (slope[j] - center) * tile.scale;
    }
  }
}

}  // namespace

void attention_backward(const AttentionTile& tile, const float* q, int64_t q_stride, const float* k,
                        const float* v, int64_t kv_stride, const float* o, const float* dout,
                        int64_t o_stride, const float* lse, float* dq, int64_t dq_stride, float* dk,
                        float* dv, int64_t dkv_stride) {
  alignas(64) BackwardTile work;
  const int64_t d = tile.head_dim;
  for (int64_t k0 = 0; k0 < tile.time; k0 += kTile) {
    const int64_t count = std::min(kTile, tile.time - k0);
    transpose(count, d, k + k0 * kv_stride, kv_stride, work.keys);
    transpose(count, d, v + k0 * kv_stride, kv_stride, work.values);
    for (int64_t q0 = k0; q0 < tile.time; q0 += kTile) {
      const int64_t rows = std::min(kTile, tile.time - q0);
      float delta[kTile];
      for (int64_t i = 0; i < rows; ++i) {
        const float* left = o + (q0 + i) * o_stride;
        const float* right = dout + (q0 + i) * o_stride;
        delta[i] = sum_over<float>(d, [=](int64_t j) { return left[j] * right[j]; });
      }
      const int64_t diagonal = tile.past + q0 - k0;
      product(rows, count, d, {q + q0 * q_stride, q_stride, 1}, work.keys, kTile, work.weights,
              kTile, false, Causal::kColumns, diagonal);
      mask_and_scale(tile, rows, count, diagonal, work.weights);
      product(rows, count, d, {dout + q0 * o_stride, o_stride, 1}, work.values, kTile, work.slopes,
              kTile, false, Causal::kColumns, diagonal);
      score_gradients(tile, work, q0, rows, k0, count, lse, delta);
      product(count, d, rows, {work.weights, 1, kTile}, dout + q0 * o_stride, o_stride,
              dv + k0 * dkv_stride, dkv_stride, true, Causal::kTransposed, diagonal);
      product(count, d, rows, {work.slopes, 1, kTile}, q + q0 * q_stride, q_stride,
              dk + k0 * dkv_stride, dkv_stride, true, Causal::kTransposed, diagonal);
      product(rows, d, count, {work.slopes, kTile, 1}, k + k0 * kv_stride, kv_stride,
              dq + q0 * dq_stride, dq_stride, true, Causal::kDepth, diagonal);
    }
  }
}

}  // namespace hetmem::ops::cpu::HETMEM_ISA
