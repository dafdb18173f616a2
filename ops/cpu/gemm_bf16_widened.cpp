// Products in bf16 on processors that have none: operands are rounded to bf16 (or widened from it)
// into fp32 values, a panel of K at a time, and multiplied by the fp32 libraries. A product of two
// bf16 values is exact in fp32, so that only the order of the sums differs from a native product.
#include <algorithm>

#include "core/error.h"
#include "ops/cpu/gemm_bf16.h"
#include "ops/cpu/gemm_rules.h"
#include "ops/cpu/isa/kernel_table.h"

namespace hetmem::ops::cpu {
namespace {

constexpr int64_t kMaxPanel = 768;  // of K: twice what the libraries pack at a time
constexpr int64_t kMaxTile = 1024;  // rows or columns of C, along the side that tiles widen
constexpr int64_t kMinTile = 64;
constexpr int64_t kMinSlots = 4;
constexpr int64_t kLine = 16;  // floats of a cache line

// Of rows that are not a power of two apart, which would share the places of a cache.
int64_t padded(int64_t width) { return rounded_up(width, kLine) + kLine; }

// One side of a product, [k, length] or stored the other way round.
struct Side {
  GemmOperand stored;
  bool k_is_rows;
  int64_t length;

  // A widened block of `depth` of K and `count` of the length.
  int64_t stride(int64_t depth, int64_t count) const { return padded(k_is_rows ? count : depth); }
  int64_t elements(int64_t depth, int64_t count) const {
    return (k_is_rows ? depth : count) * stride(depth, count);
  }
  // Where the block's part from `at` of the length begins.
  const float* part(const float* block, int64_t stride_of, int64_t at) const {
    return block + (k_is_rows ? at : at * stride_of);
  }
};

Side side_a(const GemmShape& shape, const GemmOperand& a) {
  return {a, shape.transpose_a, shape.m};
}
Side side_b(const GemmShape& shape, const GemmOperand& b) {
  return {b, !shape.transpose_b, shape.n};
}

// How a shape is cut. Of each panel of K one side, the smaller one in training, is widened as a
// whole: the activations, or of a weight's gradient the input. The other side is the tiles' own.
struct Cut {
  explicit Cut(const GemmShape& shape)
      : panel(rounded_up(pieces(shape.k, pieces(shape.k, kMaxPanel)), kLine)),
        whole(shape.transpose_a ? side_b(shape, {}) : side_a(shape, {})),
        own(shape.transpose_a ? side_a(shape, {}) : side_b(shape, {})) {
    panel = std::min(panel, shape.k);
    const int64_t wanted = std::max({int64_t{2}, pieces(own.length, kMaxTile), machine_tiles()});
    own_tile =
        std::min(own.length, std::max(rounded_up(pieces(own.length, wanted), kLine), kMinTile));
    const int64_t own_tiles = pieces(own.length, own_tile);
    whole_tile =
        std::max(kMinTile, rounded_up(pieces(whole.length, pieces(wanted, own_tiles)), kLine));
    whole_tile = std::min(whole.length, whole_tile);
    tiles = own_tiles * pieces(whole.length, whole_tile);
    slots = std::min(tiles, std::max(kMinSlots, machine_tiles()));
    whole_elements = whole.elements(panel, whole.length);
    slot_elements = own.elements(panel, own_tile);
  }
  int64_t bytes() const {
    return (whole_elements + slots * slot_elements) * static_cast<int64_t>(sizeof(float));
  }

  int64_t panel;
  Side whole;
  Side own;
  int64_t own_tile;
  int64_t whole_tile;
  int64_t tiles;
  int64_t slots;  // tiles that are made at a time
  int64_t whole_elements;
  int64_t slot_elements;
};

// Rows [row, row + rows) and some columns of a stored matrix, as fp32 values of bf16.
void widen(const GemmOperand& from, int64_t row, int64_t rows, int64_t column, int64_t columns,
           float* to, int64_t stride) {
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t at = (row + r) * from.stride + column;
    if (from.dtype == DType::kBFloat16) {
      kernel_table().from_bf16(static_cast<const uint16_t*>(from.data) + at, to + r * stride,
                               columns);
    } else {
      kernel_table().round_to_bf16(static_cast<const float*>(from.data) + at, to + r * stride,
                                   columns);
    }
  }
}

// A product, cut.
class Product {
 public:
  Product(ThreadPool& thread_pool, const GemmShape& of, const GemmOperand& a, const GemmOperand& b,
          float* result, int64_t result_stride, float* workspace)
      : pool_(thread_pool),
        shape_(of),
        cut_(of),
        whole_(of.transpose_a ? side_b(of, b) : side_a(of, a)),
        own_(of.transpose_a ? side_a(of, a) : side_b(of, b)),
        kernel_(gemm_rule(of).kernel),
        c_(result),
        ldc_(result_stride),
        room_(workspace) {}

  void run(float beta, const GemmEpilogue& epilogue) const {
    for (int64_t first = 0; first < shape_.k; first += cut_.panel) {
      const int64_t depth = std::min(cut_.panel, shape_.k - first);
      const bool last = first + depth == shape_.k;
      widen_whole(first, depth);
      pool_.parallel_for(cut_.slots, [&](int64_t slot) {
        for (int64_t tile = slot; tile < cut_.tiles; tile += cut_.slots) {
          make_tile(slot, tile, first, depth, first > 0 ? 1.0F : beta,
                    last ? epilogue : GemmEpilogue{});
        }
      });
    }
  }

 private:
  void widen_whole(int64_t first, int64_t depth) const {
    constexpr int64_t kElements = 32768;  // of a task
    const int64_t stride = whole_.stride(depth, whole_.length);
    const int64_t rows = whole_.k_is_rows ? depth : whole_.length;
    const int64_t width = whole_.k_is_rows ? whole_.length : depth;
    const int64_t row = whole_.k_is_rows ? first : 0;
    const int64_t column = whole_.k_is_rows ? 0 : first;
    pool_.parallel_blocks(rows, std::max<int64_t>(1, kElements / width),
                          [&](int64_t begin, int64_t end) {
                            widen(whole_.stored, row + begin, end - begin, column, width,
                                  room_ + begin * stride, stride);
                          });
  }

  void make_tile(int64_t slot, int64_t tile, int64_t first, int64_t depth, float beta,
                 const GemmEpilogue& epilogue) const {
    const int64_t across = pieces(whole_.length, cut_.whole_tile);
    const int64_t own_at = tile / across * cut_.own_tile;
    const int64_t whole_at = tile % across * cut_.whole_tile;
    const int64_t own_count = std::min(cut_.own_tile, own_.length - own_at);
    const int64_t whole_count = std::min(cut_.whole_tile, whole_.length - whole_at);
    const int64_t own_stride = own_.stride(depth, own_count);
    const int64_t whole_stride = whole_.stride(depth, whole_.length);
    float* own = room_ + cut_.whole_elements + slot * cut_.slot_elements;
    if (own_.k_is_rows) {
      widen(own_.stored, first, depth, own_at, own_count, own, own_stride);
    } else {
      widen(own_.stored, own_at, own_count, first, depth, own, own_stride);
    }
    const float* whole = whole_.part(room_, whole_stride, whole_at);
    GemmShape part = shape_;
    part.k = depth;
    if (shape_.transpose_a) {
      part.m = own_count;
      part.n = whole_count;
      float* to = c_ + own_at * ldc_ + whole_at;
      gemm_single(kernel_, part, own, own_stride, whole, whole_stride, beta, to, ldc_);
      if (epilogue) epilogue(own_at, own_count, whole_at, whole_count);
    } else {
      part.m = whole_count;
      part.n = own_count;
      float* to = c_ + whole_at * ldc_ + own_at;
      gemm_single(kernel_, part, whole, whole_stride, own, own_stride, beta, to, ldc_);
      if (epilogue) epilogue(whole_at, whole_count, own_at, own_count);
    }
  }

  ThreadPool& pool_;
  const GemmShape& shape_;
  Cut cut_;
  Side whole_;
  Side own_;
  GemmKernel kernel_;
  float* c_;
  int64_t ldc_;
  float* room_;
};

}  // namespace

int64_t gemm_bf16_widened_workspace(const GemmShape& shape) { return Cut(shape).bytes(); }

void gemm_bf16_widened(ThreadPool& pool, const GemmShape& shape, const float* a, int64_t lda,
                       const GemmOperand& b, float beta, float* c, int64_t ldc, void* workspace,
                       const GemmEpilogue& epilogue) {
  if (shape.m == 0 || shape.n == 0) return;
  HETMEM_ASSERT(shape.k > 0);
  Product(pool, shape, {a, lda}, b, c, ldc, static_cast<float*>(workspace)).run(beta, epilogue);
}

}  // namespace hetmem::ops::cpu
