// The plain version of every op, in double throughout: what the backends are tested against, and
// what finite differences are taken of. Operands are those of core/op.h with float64 in the place
// of fp32, on the host. Slow on purpose: one thread, no tiles, and no workspace but for parts of
// the head: all logits, [rows of x, weight_rows].
#pragma once

#include "core/op.h"

namespace hetmem::ops::reference {

void run(const OpCall& call);

}  // namespace hetmem::ops::reference
