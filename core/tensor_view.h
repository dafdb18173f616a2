// TensorView: a pointer with dtype, shape and memory space. It never owns; whoever made the memory
// frees it. Rows are contiguous; `row_stride` (in elements) separates consecutive rows, so that a
// view can be a slice of columns of a wider matrix (q, k and v inside a packed qkv).
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/error.h"
#include "core/shape.h"

namespace hetmem {

enum class MemorySpace : uint8_t { kHost, kDevice };

struct TensorView {
  void* data = nullptr;
  DType dtype = DType::kFloat32;
  Shape shape;
  int64_t row_stride = 0;  // elements from one row to the next; shape[-1] where contiguous
  MemorySpace space = MemorySpace::kHost;

  TensorView() = default;
  TensorView(void* memory, DType type, const Shape& dimensions, MemorySpace where)
      : data(memory),
        dtype(type),
        shape(dimensions),
        row_stride(dimensions.rank() > 0 ? dimensions[-1] : 1),
        space(where) {}

  explicit operator bool() const { return data != nullptr; }
  int64_t elements() const { return shape.elements(); }
  int64_t bytes() const { return elements() * size_of(dtype); }
  bool contiguous() const { return shape.rank() == 0 || row_stride == shape[-1]; }

  template <typename T>
  T* as() const {
    HETMEM_ASSERT(sizeof(T) == static_cast<size_t>(size_of(dtype)));
    return static_cast<T*>(data);
  }
  // Columns [begin, begin + count) of every row.
  TensorView columns(int64_t begin, int64_t count) const;
  // The same elements in another shape; the view must be contiguous.
  TensorView reshaped(const Shape& other) const;
};

}  // namespace hetmem
