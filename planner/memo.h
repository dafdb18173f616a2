// What was worked out before, by what it follows from. Not thread-safe.
//
//   Memo<Plan> plans;
//   const Plan& plan = plans.at(key, [&] { return make(key); });  // made once
#pragma once

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

namespace hetmem::planner {

template <typename Value>
class Memo {
 public:
  template <typename Make>
  const Value& at(std::vector<int64_t> key, const Make& make) {
    auto known = values_.find(key);
    if (known == values_.end()) known = values_.emplace(std::move(key), make()).first;
    return known->second;
  }

 private:
  std::map<std::vector<int64_t>, Value> values_;
};

}  // namespace hetmem::planner
