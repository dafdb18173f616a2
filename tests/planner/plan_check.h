// Walks a Plan as a machine of memory and says what is wrong with it, from what the trace alone
// says of each op: independent of how the planner came to it.
//
// Two actions, of one step or of two that follow each other, are ordered where the order of their
// lanes and the waits say so, or the barriers: before the optimizer, which loss and norms pass
// first, and after the step, when compute and what leaves are done (without overlap: everything).
// Whatever is not ordered may run at once. Each thing in
// the pool (a buffer, a stay of a chunk) has a set of actions that touch its memory. Two things
// that share bytes are right only where every action of one is ordered before every action of the
// other, and before those of any in the next step.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "planner/plan.h"

namespace hetmem::plan_check {

// Empty: nothing is wrong.
std::vector<std::string> problems(const AccessTrace& trace, const Plan& plan,
                                  const TierBudgets& budgets);

// Whether action `before` is done when action `after` begins, whatever the lanes do.
class Order {
 public:
  explicit Order(const Plan& plan);
  bool ordered(int before, int after) const { return before_in(before, after, 0); }
  // `after` is of the next step.
  bool ordered_next(int before, int after) const { return before_in(before, after, size_); }

 private:
  using Places = std::array<int, kLanes>;  // the last one in each lane
  void add(int step, int action);
  void join(Places& reached, int node) const;
  bool before_in(int before, int after, int step) const;

  const Plan& plan_;
  const int size_;
  // By action of the first step, then of the second.
  std::vector<int> place_;  // in its lane
  std::vector<Places> reached_;
  Places count_{};
  Places last_;
  Places step_ends_;  // nodes
};

}  // namespace hetmem::plan_check
