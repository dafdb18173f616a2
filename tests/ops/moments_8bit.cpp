#include "moments_8bit.h"

#include <algorithm>
#include <cmath>

namespace hetmem::testing_ops {

CodedState::CodedState(int64_t elements)
    : m(static_cast<size_t>(elements), 0),
      v(m),
      m_scales(static_cast<size_t>(ops::moment_blocks(elements)), 0.0F),
      v_scales(m_scales) {}

ops::Moments8Bit CodedState::views(int64_t begin, int64_t count) {
  const auto codes = [&](std::vector<uint8_t>& all) {
    return TensorView(all.data() + begin, DType::kUint8, Shape{count}, MemorySpace::kDevice);
  };
  const auto scales = [&](std::vector<float>& all) {
    return TensorView(all.data() + begin / ops::kMomentBlock, DType::kFloat32,
                      Shape{ops::moment_blocks(count)}, MemorySpace::kDevice);
  };
  return {codes(m), codes(v), scales(m_scales), scales(v_scales)};
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
