// NormHistory: whether the gradients of the last steps were clipped. An optimizer step that is
// taken before the norm is known, as if nothing were clipped, is worth its work and its spare
// memory where they hardly ever are. Not thread-safe.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace hetmem {

class NormHistory {
 public:
  // `limit`: --max-grad-norm; 0: nothing is clipped.
  explicit NormHistory(double limit) : limit_(limit), worth_planning_(limit <= 0) {}

  // Notes by what the gradients of a step were scaled.
  void add(double scale) {
    if (limit_ <= 0) return;
    clipped_.push_back(scale < 1);
    if (clipped_.size() > kSteps) clipped_.erase(clipped_.begin());
    const auto count = static_cast<size_t>(std::count(clipped_.begin(), clipped_.end(), true));
    if (count * 2 >= kSteps) worth_planning_ = false;
    if (clipped_.size() >= kFewest && count == 0) worth_planning_ = true;
  }

  // Of a plan. It stays as it is while only some of the steps are clipped.
  bool worth_planning() const { return worth_planning_; }
  // Of the next step.
  bool worth_trying() const { return clipped_.empty() ? limit_ <= 0 : !clipped_.back(); }

 private:
  static constexpr size_t kSteps = 8;
  static constexpr size_t kFewest = 2;
  double limit_;
  bool worth_planning_;
  std::vector<bool> clipped_;  // the last steps
};

}  // namespace hetmem
