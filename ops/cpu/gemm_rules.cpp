#include "ops/cpu/gemm_rules.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>

namespace hetmem::ops::cpu {
namespace {

// The first row keeps the array from being empty where nothing was tuned; no shape is near it.
constexpr GemmRuleRow kRows[] = {
    {{0, 0, 0, true, true}, Isa::kAvx2, GemmKernel::kOneDnn, 1, 1},
#include "ops/cpu/gemm_rules.inc"
};

// Octaves between two shapes.
double distance(const GemmShape& a, const GemmShape& b) {
  const auto octaves = [](int64_t x, int64_t y) {
    return std::abs(std::log2(static_cast<double>(x) / static_cast<double>(y)));
  };
  return octaves(a.m, b.m) + octaves(a.n, b.n) + octaves(a.k, b.k);
}

// For shapes that nothing like was measured of: pieces that a few threads can share and that the
// libraries work well on.
GemmRule formula(const GemmShape& shape) {
  constexpr int64_t kTall = 1024;
  constexpr int64_t kLongest = 3072;
  GemmRule rule;
  if (shape.m > kTall) {  // weight gradients
    return {rule.kernel, gemm_piece(shape.m, 4), std::min(shape.n, kLongest)};
  }
  rule.tile_m = shape.m;
  if (shape.n >= 1024) {
    const int64_t pieces = (shape.n + kLongest - 1) / kLongest;
    rule.tile_n = gemm_piece(shape.n, std::max<int64_t>(4, (pieces + 1) / 2 * 2));
  } else if (shape.n >= 256) {
    rule.tile_n = gemm_piece(shape.n, 2);
  } else {
    rule.tile_n = shape.n;
    rule.tile_m = gemm_piece(shape.m, 2);
  }
  if (shape.m >= 512) rule.tile_m = gemm_piece(shape.m, 2);
  return rule;
}

int64_t tiles_of(const GemmShape& shape, const GemmRule& rule) {
  return ((shape.m + rule.tile_m - 1) / rule.tile_m) * ((shape.n + rule.tile_n - 1) / rule.tile_n);
}

}  // namespace

int64_t machine_tiles() {
  constexpr int64_t kTuned = 4;  // processors that the tuned cuts feed well enough
  constexpr int64_t kMost = 64;
  static const int64_t processors = sysconf(_SC_NPROCESSORS_ONLN);
  return processors <= kTuned ? 1 : std::min(processors, kMost);
}

GemmRule cut_finer(const GemmShape& shape, GemmRule rule, int64_t tiles) {
  constexpr int64_t kLeastRows = 32;
  constexpr int64_t kLeastColumns = 64;
  while (tiles_of(shape, rule) < tiles) {
    const bool rows = rule.tile_m >= 2 * kLeastRows;
    const bool columns = rule.tile_n >= 2 * kLeastColumns;
    if (!rows && !columns) break;
    if (columns && (!rows || rule.tile_n >= rule.tile_m)) {
      rule.tile_n = gemm_piece(rule.tile_n, 2);
    } else {
      rule.tile_m = gemm_piece(rule.tile_m, 2);
    }
  }
  return rule;
}

std::span<const GemmRuleRow> gemm_rule_rows() { return std::span(kRows).subspan(1); }

int64_t gemm_piece(int64_t length, int64_t pieces) {
  constexpr int64_t kMultiple = 16;
  return std::min(length, rounded_up(cpu::pieces(length, pieces), kMultiple));
}

GemmRule gemm_rule(const GemmShape& shape) {
  constexpr double kNear = 1.5;  // octaves, over the three lengths together
  const GemmRuleRow* nearest = nullptr;
  double least = kNear;
  for (const GemmRuleRow& row : gemm_rule_rows()) {
    if (row.isa != current_isa() || row.shape.transpose_a != shape.transpose_a ||
        row.shape.transpose_b != shape.transpose_b) {
      continue;
    }
    const double away = distance(row.shape, shape);
    if (away < least) {
      least = away;
      nearest = &row;
    }
  }
  const GemmRule rule = nearest == nullptr
                            ? formula(shape)
                            : GemmRule{nearest->kernel, gemm_piece(shape.m, nearest->pieces_m),
                                       gemm_piece(shape.n, nearest->pieces_n)};
  return cut_finer(shape, rule, machine_tiles());
}

}  // namespace hetmem::ops::cpu
