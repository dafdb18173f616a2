// The 8-bit codes of Adam's moments: dynamic exponents in blocks (Dettmers et al. 2022, 8-bit
// Optimizers via Block-wise Quantization, section 2). A block of kMomentBlock elements has a scale,
// its largest magnitude, and for each element a code of the fraction of it: seven decades of
// 10^-6 to 1, each in twice as many equal steps as the one below, 0 and 1. First moments have a
// sign (and 64 steps in the highest decade), second moments do not (and 128). An element takes the
// nearest code; a block whose scale is below the smallest normal number counts as zero.
//
// A code is `middle` + or - s, where s in [2^e, 2^(e + 1)) is one of the 2^e steps of a decade, so
// that in a decade s and the fraction are linear in each other. The tables hold the two lines of
// each; kernels work them out by +, * and comparisons, rounded one by one, the same everywhere:
//
//   level = how many of at_least[0..6] are <= x                  x = |element| * (1 / scale)
//   s = floor(min(x * slope[level] + shift[level], most[level])) + (x >= at_least[7])
//   x = step[line] * s + base[line]                              line = exponent bits of s, the
//                                                                lowest three; not of s = apart
// Values only; thread-safe.
#pragma once

#include <cstdint>

namespace hetmem::ops {

constexpr int64_t kMomentBlock = 256;
constexpr int kMomentLevels = 8;

struct MomentCode {
  bool has_sign;
  int32_t middle;   // the code of s = 0
  int32_t highest;  // s of 1
  int32_t lowest;   // s of the most negative code: there is none of -1
  float at_least[kMomentLevels];
  float slope[kMomentLevels];
  float shift[kMomentLevels];
  float most[kMomentLevels];
  float base[kMomentLevels];
  float step[kMomentLevels];
  float apart;        // an s that is on no line
  float apart_value;  // its fraction
};

const MomentCode& first_moment_code();
const MomentCode& second_moment_code();

}  // namespace hetmem::ops
