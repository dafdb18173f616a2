// The seam of the FaultPlan in the copies of every kind of stream. Thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "core/error.h"
#include "core/fault_plan.h"
#include "device/stream.h"

namespace hetmem {

// To be asked for each copy, where it is made. Throws where the plan has it fail, as a copy engine
// that broke would.
inline Fault next_copy_fault(int64_t bytes, CopyDirection direction) {
  constexpr std::array<std::string_view, kCopyDirections> kNames{"to_device", "to_host", "within"};
  const std::string_view name = kNames.at(static_cast<size_t>(direction));
  const Fault fault = next_fault(FaultSite::kCopy, name);
  if (fault.kind == Fault::Kind::kFail) {
    throw Error(ErrorKind::kStorage,
                "a copy of " + std::to_string(bytes) + " bytes " + std::string(name) +
                    " failed; look at the machine's memory (dmesg), then go on from a checkpoint");
  }
  return fault;
}

}  // namespace hetmem
