// A copy that goes past the caches, at the speed of memory: for blocks that are larger than what
// the caches should give up for them. Thread-safe.
#pragma once

#include <cstdint>

namespace hetmem {

// As std::memcpy. Large blocks are written with non-temporal stores: glibc begins with those at
// three quarters of what it takes for the shared cache, which on virtual machines is often many
// times what there is.
void streaming_copy(void* destination, const void* source, int64_t bytes);

}  // namespace hetmem
