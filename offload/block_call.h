// BlockCall: one call of the system for what of a BlockRequest is still to be moved, which is where
// the FaultPlan meets a BlockDevice. Backends make it as it says and hand back what came of it.
//
//   BlockCall call(file.path(), request, moved);
//   moved_now = call.result(call.answer ? *call.answer : ::pread(fd, call.memory, call.bytes,
//   ...));
//
// For one thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "core/fault_plan.h"
#include "offload/block_device.h"

namespace hetmem {

class BlockCall {
 public:
  BlockCall(const std::string& path, const BlockRequest& request, int64_t moved);
  bool reads;
  char* memory;
  int64_t offset;
  int64_t bytes;
  // What a plan has the call come to without its being made: bytes, or a negative errno.
  std::optional<int64_t> answer;
  // To be called once, with the bytes that were moved, or a negative errno; gives it back.
  int64_t result(int64_t moved) const;

 private:
  Fault fault_;
};

}  // namespace hetmem
