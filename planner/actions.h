// The actions of a Plan from its residencies and offsets, with the waits that memory shared over
// time asks for. Part of make_plan(). Pure.
#pragma once

#include <vector>

#include "planner/access_trace.h"
#include "planner/plan.h"

namespace hetmem::planner {

// Fills actions, update and next. Where `placed` is false, offsets are not known yet: copies wait
// for the op before their start instead, which is how long their memory is taken at least.
void make_actions(const AccessTrace& trace, Plan& plan, bool placed);

}  // namespace hetmem::planner
