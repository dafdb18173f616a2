#include "core/tensor_view.h"

namespace hetmem {

TensorView TensorView::columns(int64_t begin, int64_t count) const {
  HETMEM_ASSERT(shape.rank() > 0 && begin >= 0 && count > 0 && begin + count <= shape[-1]);
  TensorView slice = *this;
  slice.data = static_cast<char*>(data) + begin * size_of(dtype);
  slice.shape = Shape{};
  for (int i = 0; i + 1 < shape.rank(); ++i) slice.shape.append(shape[i]);
  slice.shape.append(count);
  return slice;
}

TensorView TensorView::reshaped(const Shape& other) const {
  HETMEM_ASSERT(contiguous() && other.elements() == elements());
  return {data, dtype, other, space};
}

}  // namespace hetmem
