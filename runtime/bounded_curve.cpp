#include "runtime/bounded_curve.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace hetmem {
namespace {

constexpr size_t kPointsOfStretch = 4;

}  // namespace

void BoundedCurve::add(double x, double y) {
  const CurvePoint point{x, y};
  const bool finite = std::isfinite(y);
  const Stretch one{point, point, point, point, 1, finite ? y : 0.0, finite ? 1 : 0};
  if (!stretches_.empty() && stretches_.back().count < width_) {
    merge(stretches_.back(), one);
    return;
  }
  stretches_.push_back(one);
  while (stretches_.size() > most_stretches()) {
    for (size_t i = 0; i < stretches_.size(); i += 2) {
      if (i + 1 < stretches_.size()) merge(stretches_[i], stretches_[i + 1]);
      stretches_[i / 2] = stretches_[i];
    }
    stretches_.resize((stretches_.size() + 1) / 2);
    width_ *= 2;
  }
}

void BoundedCurve::merge(Stretch& into, const Stretch& next) {
  const auto is_better = [](const CurvePoint& a, const CurvePoint& b, bool less) {
    if (!std::isfinite(a.y) || !std::isfinite(b.y)) return std::isfinite(a.y);
    return less ? a.y < b.y : b.y < a.y;
  };
  if (is_better(next.least, into.least, true)) into.least = next.least;
  if (is_better(next.greatest, into.greatest, false)) into.greatest = next.greatest;
  into.last = next.last;
  into.count += next.count;
  into.sum += next.sum;
  into.finite += next.finite;
}

size_t BoundedCurve::most_stretches() const {
  return kMostPoints / std::min(static_cast<size_t>(width_), kPointsOfStretch);
}

std::vector<CurvePoint> BoundedCurve::points() const {
  std::vector<CurvePoint> all;
  for (const Stretch& stretch : stretches_) {
    std::array<CurvePoint, kPointsOfStretch> of{stretch.first, stretch.least, stretch.greatest,
                                                stretch.last};
    std::sort(of.begin(), of.end(),
              [](const CurvePoint& a, const CurvePoint& b) { return a.x < b.x; });
    const auto end = std::unique(
        of.begin(), of.end(), [](const CurvePoint& a, const CurvePoint& b) { return a.x == b.x; });
    all.insert(all.end(), of.begin(), end);
  }
  return all;
}

std::vector<CurvePoint> BoundedCurve::means() const {
  std::vector<CurvePoint> all;
  for (const Stretch& stretch : stretches_) {
    const double mean = stretch.finite > 0 ? stretch.sum / static_cast<double>(stretch.finite)
                                           : std::numeric_limits<double>::quiet_NaN();
    all.push_back({stretch.last.x, mean});
  }
  return all;
}

}  // namespace hetmem
