// The 8-bit codes of Adam's moments: dynamic exponents in blocks (Dettmers et al. 2022, 8-bit
// Optimizers via Block-wise Quantization, section 2). A block of kMomentBlock elements has a scale,
// its largest magnitude, and for each element a code of the fraction of it: seven decades of
// 10^-6 to 1, each in twice as many equal steps as the one below, each step standing for its
// middle; 0 and 1. First moments have a sign (and 64 steps in the highest decade), second moments
// do not (and 128). An element takes the nearest code; a block whose scale is below the smallest
// normal number counts as zero. A scale is finite: a gradient, scaled, counts as no larger than
// kLargestMomentGradient, since the square of one element that overflows would be that of its
// block.
//
// First moments have the codes 127 + s and 127 - s (of -1 there is none), second moments the codes
// s - 1, where s in [steps, 2 steps) is one of the steps of a decade; the lowest s is 0, and one
// more than the highest decade's is 1. So that kernels need no tables of 256 entries, codes are
// worked out, by operations that are rounded one by one and the same everywhere:
//
//   f = x * (1 / scale), a = max(|f|, kLeastFraction)
//   level = how many of at_least are <= a                  (0: the code of 0, 8: that of 1)
//   u = min(fma(a, slope[level % 8], kOffset), kMostOfDecade)      in [1, 2), as s in its decade
//   s = floor(u * 2^(level + exponent))                            (a code below 0 is 0)
//
//   t = s, or of first moments 2 s + 1; line = the three lowest bits of the exponent of t
//   x = fma(step[line], t, base[line]) * scale
//
// since s and the fraction are linear in each other within a decade, and 0 and 1 share the line
// that is left. Values only; thread-safe.
#pragma once

#include <cstdint>

#include "core/moments.h"

namespace hetmem::ops {

constexpr int kMomentLevels = 8;
constexpr float kLeastFraction = 0x1p-23F;        // below half of the first code's
constexpr float kOffset = 8.0F / 9.0F;            // 1 - 0.1 / 0.9
constexpr float kMostOfDecade = 2.0F - 0x1p-23F;  // the largest below 2
constexpr float kLeastMomentScale = 0x1p-126F;    // the smallest normal number
// Means of squares of it, however they are rounded, are finite.
constexpr float kLargestMomentGradient = 0x1p63F;

struct MomentCode {
  bool has_sign;
  int32_t exponent;  // level + exponent is log2 of a decade's steps
  float at_least[kMomentLevels];
  float slope[kMomentLevels];
  float step[kMomentLevels];
  float base[kMomentLevels];
  // What `level` is at least, by the four lowest bits of (bits of a) >> 24: in the four-fold range
  // that has the same ones there is at most one of at_least[0..7].
  uint8_t least_level[16];
};

const MomentCode& first_moment_code();
const MomentCode& second_moment_code();

}  // namespace hetmem::ops
