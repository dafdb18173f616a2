#include "ops/moment_code.h"

#include <bit>

namespace hetmem::ops {
namespace {

constexpr int kDecades = 7;
constexpr double kLow = 0.1;  // a decade is [kLow, 1) of its power of ten
constexpr double kSpan = 0.9;

// One decade: `steps` equal steps, s in [steps, 2 steps), each standing for its middle.
struct Decade {
  Decade(int index, int first_steps) : steps(first_steps << index) {
    for (int i = index + 1; i < kDecades; ++i) ten /= 10.0;
  }
  double fraction(double s) const { return ten * (kLow + kSpan * ((s + 0.5) / steps - 1.0)); }

  int steps;
  double ten = 1.0;  // the power of ten above it
};

// The line of a t in [2^e, 2^(e + 1)): the lowest bits of e + 127.
constexpr int line_of(int e) { return (e + 127) % kMomentLevels; }

void fill_lines(MomentCode& code, int first_steps) {
  for (int i = 0; i < kDecades; ++i) {
    const Decade decade(i, first_steps);
    const int line = line_of(i + 1);  // of t = s >= 2, or of t = 2 s + 1 >= 3
    const double slope = decade.ten * kSpan / decade.steps;
    code.step[line] = static_cast<float>(code.has_sign ? slope / 2 : slope);
    code.base[line] =
        static_cast<float>(code.has_sign ? decade.fraction(-0.5) : decade.fraction(0.0));
  }
  // Through 0 at t = 1 and 1 at t = 257 or 256, exactly: of 1 / 255, too, 256 - 1 of them are 1.
  const float step = code.has_sign ? 1.0F / 256.0F : 1.0F / 255.0F;
  code.step[line_of(0)] = step;
  code.base[line_of(0)] = -step;
}

// Which of the thresholds lie below the ranges that `level` is looked up by.
void fill_least_levels(MomentCode& code) {
  constexpr uint32_t kFirst = 52;  // of kLeastFraction: 52 to 63 are the ranges up to 2
  for (uint32_t range = kFirst; range < kFirst + 12; ++range) {
    const auto lower = std::bit_cast<float>(range << 24);
    uint8_t level = 0;
    for (const float least : code.at_least) level += least <= lower ? 1 : 0;
    code.least_level[range % 16] = level;
  }
}

MomentCode make(bool has_sign) {
  const int first_steps = has_sign ? 1 : 2;
  MomentCode code{};
  code.has_sign = has_sign;
  code.exponent = has_sign ? -1 : 0;
  // Of level 8: u of 1 is 1 and a little. Of level 0 u is below 1, and s below that of any decade.
  code.slope[0] = 0.1125F;
  double below = 0.0;  // the highest fraction of the level below
  for (int i = 0; i < kDecades; ++i) {
    const Decade decade(i, first_steps);
    code.at_least[i] = static_cast<float>((below + decade.fraction(decade.steps)) / 2);
    code.slope[i + 1] = static_cast<float>(1.0 / (decade.ten * kSpan));
    below = decade.fraction(2 * decade.steps - 1);
  }
  code.at_least[kDecades] = static_cast<float>((below + 1.0) / 2);
  fill_lines(code, first_steps);
  fill_least_levels(code);
  return code;
}

}  // namespace

const MomentCode& first_moment_code() {
  static const MomentCode code = make(true);
  return code;
}

const MomentCode& second_moment_code() {
  static const MomentCode code = make(false);
  return code;
}

}  // namespace hetmem::ops
