// Adam's moments in 8 bits, for the tests of every backend.
#pragma once

#include <cstdint>
#include <vector>

#include "ops/ops.h"

namespace hetmem::testing_ops {

// Records of moments of zero, and views of those of elements [begin, begin + count).
struct CodedState {
  explicit CodedState(int64_t elements);
  TensorView m_of(int64_t begin, int64_t count) { return view(m, begin, count); }
  TensorView v_of(int64_t begin, int64_t count) { return view(v, begin, count); }
  friend bool operator==(const CodedState&, const CodedState&) = default;

  std::vector<uint8_t> m;
  std::vector<uint8_t> v;

 private:
  static TensorView view(std::vector<uint8_t>& records, int64_t begin, int64_t count);
};

// The 256 fractions of a scale, in ascending order, as `create_dynamic_map` of bitsandbytes (the
// authors' implementation of Dettmers et al. 2022) makes them: for each decade the middles of equal
// intervals from 0.1 to 1, of either sign where there is one; 0 and 1.
std::vector<double> published_code(bool has_sign);

}  // namespace hetmem::testing_ops
