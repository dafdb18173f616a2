// Export: a checkpoint or model folder as a clean model folder, in a dtype of choice. One weight is
// in memory at a time.
#pragma once

#include <optional>
#include <string>

#include "core/dtype.h"

namespace hetmem {

// Reads `source` (config.json, weights, and the fp32 masters of optimizer.safetensors where it
// holds any) and writes `out`, which appears complete or not at all. Without a dtype it stays the
// model's. Throws Error: kBadInput where `source` is no model, `out` holds something, or a weight
// is outside of the range of fp16; kStorage where writing fails.
void export_model(const std::string& source, const std::string& out, std::optional<DType> dtype);

}  // namespace hetmem
