// The table of measured GEMM rules: which library and which tile serve a shape, by instruction set.
// gemm_rules.inc is written by `hetmem bench gemm --tune`; a shape that is in none of its rows goes
// by the nearest row of its kind, or, where that is far, by a formula. Pure.
#pragma once

#include <cstdint>
#include <span>

#include "ops/cpu/gemm.h"
#include "ops/cpu/isa.h"

namespace hetmem::ops::cpu {

// Pieces, not tile sizes, so that a row serves its neighbours too.
struct GemmRuleRow {
  GemmShape shape;
  Isa isa;
  GemmKernel kernel;
  int pieces_m;
  int pieces_n;
};

std::span<const GemmRuleRow> gemm_rule_rows();
// How many pieces of a length another takes, and that length in whole multiples.
constexpr int64_t pieces(int64_t length, int64_t piece) { return (length + piece - 1) / piece; }
constexpr int64_t rounded_up(int64_t length, int64_t multiple) {
  return pieces(length, multiple) * multiple;
}
// `pieces` equal parts of `length`, each a multiple of 16 long but the last.
int64_t gemm_piece(int64_t length, int64_t pieces);

// The rows were measured on two processors. How many tiles a GEMM needs at least to keep the
// processors of this machine busy: of the machine, not of the process or of --threads, so that no
// bit depends on those.
int64_t machine_tiles();
// The rule with its tiles halved, the longer side first, until there are `tiles` of them or they
// are too small to be worth it.
GemmRule cut_finer(const GemmShape& shape, GemmRule rule, int64_t tiles);

}  // namespace hetmem::ops::cpu
