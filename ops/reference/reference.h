// The plain version of every op, on host memory, with double accumulation: what the backends are
// tested against. Slow on purpose; no threads, no workspace.
#pragma once

#include "core/op.h"

namespace hetmem::ops::reference {

void run(const OpCall& call);

}  // namespace hetmem::ops::reference
