#include "moments_8bit.h"

#include <algorithm>
#include <cmath>

namespace hetmem::testing_ops {

CodedState::CodedState(int64_t elements)
    : m(static_cast<size_t>(list_bytes(DType::kUint8, elements)), 0), v(m) {}

TensorView CodedState::view(std::vector<uint8_t>& records, int64_t begin, int64_t count) {
  return {records.data() + list_bytes(DType::kUint8, begin), DType::kUint8,
          Shape{list_bytes(DType::kUint8, count)}, MemorySpace::kDevice};
}

std::vector<double> published_code(bool has_sign) {
  std::vector<double> all{0.0, 1.0};
  for (int decade = 0; decade < 7; ++decade) {
    const int intervals = (has_sign ? 1 : 2) << decade;
    for (int i = 0; i < intervals; ++i) {
      const double lower = 0.1 + 0.9 * i / intervals;
      const double upper = 0.1 + 0.9 * (i + 1) / intervals;
      const double middle = std::pow(10.0, decade - 6) * (lower + upper) / 2;
      all.push_back(middle);
      if (has_sign) all.push_back(-middle);
    }
  }
  std::sort(all.begin(), all.end());
  return all;
}

}  // namespace hetmem::testing_ops
