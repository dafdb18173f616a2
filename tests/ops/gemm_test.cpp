// The rules that cut GEMMs into tiles.
#include "ops/cpu/gemm.h"

#include <gtest/gtest.h>

#include "ops/cpu/gemm_rules.h"

namespace hetmem::ops::cpu {
namespace {

int64_t tiles(const GemmShape& shape, const GemmRule& rule) {
  return (shape.m + rule.tile_m - 1) / rule.tile_m * ((shape.n + rule.tile_n - 1) / rule.tile_n);
}

TEST(GemmRules, GiveEveryProcessorOfALargeMachineATile) {
  for (const GemmShape& shape :
       {GemmShape{128, 768, 50257, false, false}, GemmShape{256, 3072, 768, false, false},
        GemmShape{50257, 768, 128, true, false}, GemmShape{4096, 4096, 4096, false, true}}) {
    const GemmRule rule = gemm_rule(shape);
    EXPECT_GE(tiles(shape, rule), 2);
    for (const int64_t processors : {8, 16, 32}) {
      const GemmRule finer = cut_finer(shape, rule, processors);
      EXPECT_GE(tiles(shape, finer), processors);
      EXPECT_LE(tiles(shape, finer), std::max(tiles(shape, rule), 4 * processors));
      EXPECT_EQ(finer.kernel, rule.kernel);
    }
    EXPECT_EQ(tiles(shape, cut_finer(shape, rule, 1)), tiles(shape, rule));
  }
  // One that is too small to be cut stays whole.
  EXPECT_EQ(tiles({16, 64, 8}, cut_finer({16, 64, 8}, {GemmKernel::kOneDnn, 16, 64}, 64)), 1);
}

}  // namespace
}  // namespace hetmem::ops::cpu
