#include "offload/block_call.h"

#include <algorithm>

namespace hetmem {

BlockCall::BlockCall(const std::string& path, const BlockRequest& request, int64_t moved)
    : reads(request.kind == BlockRequest::Kind::kRead),
      memory(static_cast<char*>(request.memory) + moved),
      offset(request.offset + moved),
      bytes(request.bytes - moved),
      fault_(next_fault(reads ? FaultSite::kDiskRead : FaultSite::kDiskWrite, path)) {
  switch (fault_.kind) {
    case Fault::Kind::kError:
      answer = -fault_.code;
      break;
    case Fault::Kind::kStale:
      answer = bytes;
      break;
    case Fault::Kind::kShort:  // direct I/O moves whole blocks
      bytes = std::max(bytes / 2 / kBlockBytes, int64_t{1}) * kBlockBytes;
      break;
    case Fault::Kind::kBitFlip:  // what is written is in staging memory, which no one reads again
      if (!reads) fault_.flip_bit(memory, bytes);
      break;
    default:
      break;
  }
}

int64_t BlockCall::result(int64_t moved) const {
  if (reads && fault_.kind == Fault::Kind::kBitFlip) fault_.flip_bit(memory, moved);
  return moved;
}

}  // namespace hetmem
