// BoundedCurve: a curve of any length in bounded memory, for pictures. Points are added from left
// to right; when there are too many, neighbouring stretches are merged, of which the first, least,
// greatest and last point stay: what can be seen of a curve that is drawn small. A value.
//
//   BoundedCurve curve;
//   curve.add(step, loss);
//   draw(curve.points());
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace hetmem {

struct CurvePoint {
  double x = 0;
  double y = 0;  // not finite: the curve is broken here
};

class BoundedCurve {
 public:
  static constexpr size_t kMostPoints = 800;

  void add(double x, double y);
  bool empty() const { return stretches_.empty(); }
  // At most kMostPoints; all, as long as they are no more.
  std::vector<CurvePoint> points() const;
  // One a stretch, at its end: the mean of what is finite there.
  std::vector<CurvePoint> means() const;

 private:
  struct Stretch {
    CurvePoint first, least, greatest, last;
    int64_t count = 0;
    double sum = 0;  // of what is finite
    int64_t finite = 0;
  };
  static void merge(Stretch& into, const Stretch& next);
  size_t most_stretches() const;

  std::vector<Stretch> stretches_;
  int64_t width_ = 1;  // points of a stretch; the last one may have fewer
};

}  // namespace hetmem
