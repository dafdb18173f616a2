// Which instruction set's kernels run. Sources in ops/cpu/isa are compiled once for each set, each
// into a namespace of its own (HETMEM_ISA); the tables of function pointers that they define are
// chosen here, once, at run time.
#pragma once

#include <cstdint>

namespace hetmem::ops::cpu {

enum class Isa : uint8_t { kAvx2, kAvx512 };

// Of this process. Throws Error (kBadInput) on a processor without AVX2 and FMA.
Isa current_isa();

}  // namespace hetmem::ops::cpu
