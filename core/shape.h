// Shape: up to six dimensions by value. Immutable use is thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

namespace hetmem {

class Shape {
 public:
  static constexpr int kMaxRank = 6;

  Shape() = default;
  Shape(std::initializer_list<int64_t> dimensions);

  int rank() const { return rank_; }
  // Counted from the end where negative: shape[-1] is the innermost dimension.
  int64_t operator[](int index) const { return dimensions_[index < 0 ? rank_ + index : index]; }
  void append(int64_t dimension);
  // The number of elements; 1 for a scalar.
  int64_t elements() const;
  // elements() / last dimension: how many rows a row-wise kernel sees.
  int64_t rows() const;
  bool operator==(const Shape& other) const;
  // "[4, 64, 768]"
  std::string to_string() const;

 private:
  std::array<int64_t, kMaxRank> dimensions_{};
  int rank_ = 0;
};

}  // namespace hetmem
