// Growth of a plan whose every use of a chunk has its place: chunks are held between uses, copies
// to the device start earlier and what leaves may take longer wherever the memory of the places
// allows it. Nothing else moves, so the pool never passes its limit, however full it is: near the
// smallest budget a choice by counted bytes alone often has no room when it is placed. Part of
// make_plan(). Pure.
#pragma once

#include <cstdint>

#include "planner/access_trace.h"
#include "planner/plan.h"
#include "planner/residency.h"

namespace hetmem::planner {

// Changes residencies (some are joined) and their offsets; actions are to be made again. The clock
// says when ops run.
void grow(const AccessTrace& trace, const CopyRates& rates, const OpClock& clock, const Lead& lead,
          int64_t pool_limit, Plan& plan);

}  // namespace hetmem::planner
