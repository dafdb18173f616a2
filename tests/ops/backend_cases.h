// The cases that every backend of ops is held to, and what their results are compared with.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "op_case.h"

namespace hetmem::testing_ops {

// Every op in several forms, forward and backward; products in bf16 too, of weights in fp32 and in
// bf16.
std::vector<OpCase> op_cases();
// Whether a case's products have operands in bf16.
bool multiplies_bf16(const OpCase& op);
// A case's name on the CPU, which says which path its products in bf16 take there.
std::string cpu_name(const OpCase& op);

// Fails the test where an element of a result is further from exact arithmetic than rounding to
// fp32 explains, or where that is so far that the comparison says nothing.
void expect_within_bound(const OpCase& op, const Results& actual);
// The same of results of one op in several ways, without the latter and against the op on operands
// that are not rounded to bf16.
class Expected {
 public:
  explicit Expected(const OpCase& op);
  void expect_within_bound(const Results& actual) const;

 private:
  Results exact_;
  Results bounds_;
};

// Ops whose weight, of kPartsWords rows, comes in blocks.
struct PartsCase {
  OpCase op;
  int64_t weight_rows;
  int64_t token_blocks;  // 0: no head
};
std::vector<PartsCase> parts_cases();
constexpr int64_t kPartsWords = 301;
// Sizes of blocks to try, and whether one holds all rows.
const std::vector<int64_t>& parts_block_rows();
bool is_whole_weight(int64_t block_rows);

}  // namespace hetmem::testing_ops
