// Walks a Plan as a machine of memory and says what is wrong with it, from what the trace alone
// says of each op: independent of how the planner came to it.
//
// Two actions are ordered where the order of their lanes and the waits say so, or the full barriers
// before the optimizer and after the step; whatever is not ordered may run at once. Each thing in
// the pool (a buffer, a stay of a chunk) has a set of actions that touch its memory. Two things
// that share bytes are right only where every action of one is ordered before every action of the
// other.
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
  bool ordered(int before, int after) const;

 private:
  const Plan& plan_;
  std::vector<int> place_;  // in its lane, by action
  std::vector<std::array<int, kLanes>>
      reached_;  // by action: the last place in each lane before it
};

}  // namespace hetmem::plan_check
