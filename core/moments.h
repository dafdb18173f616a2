// What an optimizer keeps of each weight that it trains: lists of moments, in fp32 or in 8 bits.
// Those in 8 bits are records, one for each kMomentBlock elements counted from the start of their
// tensor: a code for each element (ops/moment_code.h), then the scale of them all, fp32. The last
// record of a tensor is whole. Values only.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace hetmem {

constexpr int64_t kMomentBlock = 256;
constexpr int64_t kMomentRecordBytes = kMomentBlock + static_cast<int64_t>(sizeof(float));

constexpr int64_t moment_blocks(int64_t elements) {
  return (elements + kMomentBlock - 1) / kMomentBlock;
}

// Of a list whose elements are of a dtype; kUint8 stands for moments in 8 bits, of which there are
// whole records.
inline int64_t list_bytes(DType dtype, int64_t elements) {
  return dtype == DType::kUint8 ? moment_blocks(elements) * kMomentRecordBytes
                                : elements * size_of(dtype);
}

// The words of 4 bytes of records, or the elements of any other list.
inline int64_t words_of(DType dtype, int64_t elements) {
  return dtype == DType::kUint8 ? list_bytes(dtype, elements) / 4 : elements;
}

struct MomentLists {
  int count = 0;
  DType dtype = DType::kFloat32;  // kUint8: records
};

}  // namespace hetmem
