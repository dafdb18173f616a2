#include "ops/moment_code.h"

namespace hetmem::ops {
namespace {

constexpr int kDecades = 7;
constexpr double kLow = 0.1;  // a decade is [kLow, 1) of its power of ten
constexpr double kSpan = 1.0 - kLow;

// One decade: `steps` equal steps, s in [steps, 2 steps), each standing for its middle.
struct Decade {
  constexpr Decade(int index, int first_steps) : steps(first_steps << index) {
    for (int i = index + 1; i < kDecades; ++i) ten /= 10.0;
  }
  constexpr double base() const { return ten * (kLow + kSpan * (0.5 / steps - 1.0)); }
  constexpr double step() const { return ten * kSpan / steps; }
  constexpr double fraction(int s) const { return base() + step() * s; }

  int steps;
  double ten = 1.0;  // the power of ten above it
};

// The line of an s in [2^e, 2^(e + 1)): the lowest bits of e + 127.
constexpr int line_of(int e) { return (e + 127) % kMomentLevels; }

MomentCode make(bool has_sign) {
  const int first_steps = has_sign ? 1 : 2;
  const int zero = first_steps - 1;  // s of 0: the lowest that no decade has
  MomentCode code{};
  code.has_sign = has_sign;
  code.middle = has_sign ? 127 : -1;
  code.highest = first_steps << kDecades;
  code.lowest = code.highest - 1;
  code.shift[0] = code.most[0] = static_cast<float>(zero);
  double below = 0.0;  // the highest fraction of the level below
  for (int i = 0; i < kDecades; ++i) {
    const Decade decade(i, first_steps);
    const int level = i + 1;
    code.at_least[i] = static_cast<float>((below + decade.fraction(decade.steps)) / 2);
    code.slope[level] = static_cast<float>(1.0 / decade.step());
    code.shift[level] = static_cast<float>(decade.steps - kLow / kSpan * decade.steps);
    code.most[level] = static_cast<float>(2 * decade.steps - 1);
    const int line = line_of(has_sign ? i : i + 1);
    code.base[line] = static_cast<float>(decade.base());
    code.step[line] = static_cast<float>(decade.step());
    below = decade.fraction(2 * decade.steps - 1);
  }
  code.at_least[kDecades] = static_cast<float>((below + 1.0) / 2);
  // With a sign 1 has the eighth line and 0 is apart; without, the other way round.
  if (has_sign) code.base[line_of(kDecades)] = 1.0F;
  code.apart = static_cast<float>(has_sign ? zero : code.highest);
  code.apart_value = has_sign ? 0.0F : 1.0F;
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
