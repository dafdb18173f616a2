#include "core/shape.h"

#include <algorithm>

#include "core/error.h"

namespace hetmem {

Shape::Shape(std::initializer_list<int64_t> dimensions) {
  for (const int64_t dimension : dimensions) append(dimension);
}

void Shape::append(int64_t dimension) {
  HETMEM_ASSERT(rank_ < kMaxRank && dimension >= 0);
  dimensions_[rank_++] = dimension;
}

int64_t Shape::elements() const {
  int64_t product = 1;
  for (int i = 0; i < rank_; ++i) product *= dimensions_[i];
  return product;
}

int64_t Shape::rows() const {
  int64_t product = 1;
  for (int i = 0; i + 1 < rank_; ++i) product *= dimensions_[i];
  return product;
}

bool Shape::operator==(const Shape& other) const {
  return rank_ == other.rank_ &&
         std::equal(dimensions_.begin(), dimensions_.begin() + rank_, other.dimensions_.begin());
}

std::string Shape::to_string() const {
  std::string text = "[";
  for (int i = 0; i < rank_; ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(dimensions_[i]);
  }
  return text + "]";
}

}  // namespace hetmem
