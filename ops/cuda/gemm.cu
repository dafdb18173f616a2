#include <algorithm>

#include "core/error.h"
#include "ops/cuda/gemm.h"

namespace hetmem::ops::HETMEM_CUDA_NAMESPACE {
namespace {

constexpr int64_t kAlignment = 256;  // of the library's room, and of rounded operands

int64_t aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// To the nearest bf16, ties to even; a NaN stays one.
__device__ uint16_t bf16_from_float(float value) {
  const uint32_t bits = __float_as_uint(value);
  if ((bits & 0x7fffffffU) > 0x7f800000U) return static_cast<uint16_t>((bits >> 16) | 0x40U);
  return static_cast<uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}

__device__ uint16_t in_bf16(float value) { return bf16_from_float(value); }
__device__ uint16_t in_bf16(uint16_t value) { return value; }

template <typename Stored>
struct Round {
  const Stored* from;
  int64_t from_stride;
  uint16_t* to;
  int64_t to_stride;
  int64_t columns;
  __device__ void operator()(int64_t i) const {
    const int64_t row = i / columns;
    const int64_t column = i % columns;
    to[row * to_stride + column] = in_bf16(from[row * from_stride + column]);
  }
};

// An operand as it is stored, and as it is rounded: rows of whole 16-byte units, which tensor cores
// read best.
struct Layout {
  Layout(int64_t rows_of, int64_t columns_of, bool transposed)
      : rows(transposed ? columns_of : rows_of),
        columns(transposed ? rows_of : columns_of),
        stride((columns + 7) / 8 * 8),
        bytes(aligned(rows * stride * static_cast<int64_t>(sizeof(uint16_t)))) {}
  int64_t rows;
  int64_t columns;
  int64_t stride;
  int64_t bytes;
};
Layout layout_a(const GemmShape& shape) { return {shape.m, shape.k, shape.transpose_a}; }
Layout layout_b(const GemmShape& shape) { return {shape.k, shape.n, shape.transpose_b}; }

template <typename Stored>
GemmOperand rounded(const Queue& queue, const Layout& layout, const GemmOperand& operand,
                    std::byte* to) {
  auto* rows = reinterpret_cast<uint16_t*>(to);
  for_each(queue, layout.rows * layout.columns,
           Round<Stored>{static_cast<const Stored*>(operand.data), operand.stride, rows,
                         layout.stride, layout.columns});
  return {rows, layout.stride, DType::kBFloat16};
}

// Whether B can be read as it is stored: in bf16 and in rows that are as they would be rounded.
bool is_read_as_stored(const Layout& layout, DType dtype) {
  return dtype == DType::kBFloat16 && layout.stride == layout.columns;
}

}  // namespace

// Enough to split a long sum in four where the product is small, as it then has too few tiles to
// occupy a GPU.
int64_t gemm_room_bytes(const GemmShape& shape) {
  constexpr int64_t kMost = int64_t{8} << 20;
  constexpr int64_t kSplits = 4;
  return std::min(kMost,
                  aligned(kSplits * shape.m * shape.n * static_cast<int64_t>(sizeof(float))));
}

int64_t multiply_workspace(bool bf16, const GemmShape& shape, DType b) {
  const int64_t room = kAlignment + gemm_room_bytes(shape);
  if (!bf16) return room;
  const Layout of_b = layout_b(shape);
  return room + layout_a(shape).bytes + (is_read_as_stored(of_b, b) ? 0 : of_b.bytes);
}

void multiply(const Queue& queue, bool bf16, const GemmShape& shape, const GemmOperand& a,
              const GemmOperand& b, float beta, const GemmResult& c, void* workspace) {
  HETMEM_ASSERT(!bf16 || workspace != nullptr);
  HETMEM_ASSERT(bf16 || b.dtype == DType::kFloat32);
  if (workspace == nullptr) {
    return library_gemm(queue, GemmDtype::kFloat32, shape, a, b, beta, c, {});
  }
  auto* at = reinterpret_cast<std::byte*>(aligned(reinterpret_cast<int64_t>(workspace)));
  const GemmRoom room{at, gemm_room_bytes(shape)};
  if (!bf16) return library_gemm(queue, GemmDtype::kFloat32, shape, a, b, beta, c, room);
  at += room.bytes;
  const Layout of_a = layout_a(shape);
  const Layout of_b = layout_b(shape);
  const GemmOperand left = rounded<float>(queue, of_a, a, at);
  at += of_a.bytes;
  GemmOperand right = b;
  if (b.dtype == DType::kFloat32) {
    right = rounded<float>(queue, of_b, b, at);
  } else if (!is_read_as_stored(of_b, b.dtype)) {
    right = rounded<uint16_t>(queue, of_b, b, at);
  }
  library_gemm(queue, GemmDtype::kBFloat16, shape, left, right, beta, c, room);
}

}  // namespace hetmem::ops::HETMEM_CUDA_NAMESPACE
