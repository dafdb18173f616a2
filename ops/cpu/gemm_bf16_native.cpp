// Products in bf16 by oneDNN. The operand that is the larger one in training, the weight, is
// rounded tile by tile while it is in cache, or read as it is stored.
#include <algorithm>
#include <array>
#include <dnnl.hpp>
#include <memory>
#include <string>

#include "core/error.h"
#include "ops/cpu/gemm_bf16.h"
#include "ops/cpu/gemm_rules.h"
#include "ops/cpu/isa/kernel_table.h"

namespace hetmem::ops::cpu {
namespace {

// Tiles of C: small enough for several threads, large enough that oneDNN's packing of A and B does
// not show (measured on 256 to 512 tokens).
constexpr int64_t kTileElements = int64_t{384} * 1024;
constexpr int64_t kMaxTileColumns = 2048;
constexpr int64_t kMaxSlots = 64;    // tiles of B that are rounded at a time
constexpr int64_t kMaxPanel = 4096;  // rows of k that a tile holds
constexpr int64_t kAlignment = 64;
constexpr int64_t kBytes = 2;  // of a bf16

// How a shape is cut. Weight gradients (A transposed) have two activations as operands, which are
// rounded as a whole; else B is a weight, and each tile of C takes its own columns of B, a panel of
// rows at a time, rounded in a room of its own unless B is stored in bf16.
struct Cut {
  Cut(const GemmShape& shape, DType b) : whole_b(shape.transpose_a) {
    if (whole_b) {
      const GemmRule rule = gemm_rule(shape);
      tile_m = rule.tile_m;
      tile_n = rule.tile_n;
    } else {
      const int64_t wanted =
          std::max({int64_t{2}, shape.m * shape.n / kTileElements, machine_tiles()});
      tile_n = std::min(shape.n, std::clamp<int64_t>(rounded_up(pieces(shape.n, wanted), 16), 64,
                                                     kMaxTileColumns));
      const int64_t across = pieces(shape.n, tile_n);
      tile_m = std::max<int64_t>(64, pieces(shape.m, pieces(wanted, across)));
      panel = pieces(shape.k, pieces(shape.k, kMaxPanel));
      panel = std::min(shape.k, rounded_up(panel, 2));
    }
    tiles = pieces(shape.m, tile_m) * pieces(shape.n, tile_n);
    slots = whole_b ? tiles : std::min(tiles, kMaxSlots);
    a_bytes = rounded_up(shape.m * shape.k * kBytes, kAlignment);
    if (b == DType::kBFloat16) return;
    b_bytes = whole_b ? shape.k * shape.n * kBytes
                      : rounded_up(panel * tile_n * kBytes, kAlignment) * slots;
  }

  bool whole_b;
  int64_t tile_m = 0;
  int64_t tile_n = 0;
  int64_t panel = 0;
  int64_t tiles = 0;
  int64_t slots = 0;
  int64_t a_bytes = 0;
  int64_t b_bytes = 0;
};

// A matrix in bf16 as a GEMM reads it: [rows, columns], or stored the other way round.
struct Operand {
  const uint16_t* data;
  int64_t stride;
  bool transposed;

  const uint16_t* at(int64_t row, int64_t column) const {
    return transposed ? data + column * stride + row : data + row * stride + column;
  }
  dnnl::memory::desc describe(int64_t rows, int64_t columns) const {
    const dnnl::memory::dims strides =
        transposed ? dnnl::memory::dims{1, stride} : dnnl::memory::dims{stride, 1};
    return {{rows, columns}, dnnl::memory::data_type::bf16, strides};
  }
};

// oneDNN's matmul with sizes that are given at each call.
class Matmul {
 public:
  Matmul(bool transpose_a, bool transpose_b, bool add) : engine_(dnnl::engine::kind::cpu, 0) {
    constexpr auto kAny = DNNL_RUNTIME_DIM_VAL;
    using Type = dnnl::memory::data_type;
    const auto matrix = [](Type type, bool transposed) {
      const dnnl::memory::dims strides =
          transposed ? dnnl::memory::dims{1, kAny} : dnnl::memory::dims{kAny, 1};
      return dnnl::memory::desc({kAny, kAny}, type, strides);
    };
    dnnl::primitive_attr attributes;
    if (add) {
      dnnl::post_ops operations;
      operations.append_sum(1.0F);
      attributes.set_post_ops(operations);
    }
    const dnnl::matmul::desc description(matrix(Type::bf16, transpose_a),
                                         matrix(Type::bf16, transpose_b), matrix(Type::f32, false));
    primitive_ = dnnl::matmul({description, attributes, engine_});
  }

  void run(const Operand& a, const Operand& b, float* c, int64_t ldc, int64_t m, int64_t n,
           int64_t k) const {
    dnnl::stream stream(engine_);
    const dnnl::memory::desc c_desc({m, n}, dnnl::memory::data_type::f32,
                                    dnnl::memory::dims{ldc, 1});
    // oneDNN takes what it only reads as it takes the rest.
    const auto memory_of = [this](const dnnl::memory::desc& description, const uint16_t* data) {
      return dnnl::memory(description, engine_, const_cast<uint16_t*>(data));
    };
    primitive_.execute(stream, {{DNNL_ARG_SRC, memory_of(a.describe(m, k), a.data)},
                                {DNNL_ARG_WEIGHTS, memory_of(b.describe(k, n), b.data)},
                                {DNNL_ARG_DST, {c_desc, engine_, c}}});
    stream.wait();
  }

 private:
  dnnl::engine engine_;
  dnnl::matmul primitive_;
};

// Of the calling thread, made when first needed.
const Matmul& matmul(bool transpose_a, bool transpose_b, bool add) {
  hold_libraries_to_one_thread();
  thread_local std::array<std::unique_ptr<Matmul>, 8> all;
  const size_t index = (transpose_a ? 4U : 0U) + (transpose_b ? 2U : 0U) + (add ? 1U : 0U);
  if (!all.at(index)) all.at(index) = std::make_unique<Matmul>(transpose_a, transpose_b, add);
  return *all.at(index);
}

void round_rows(const float* from, int64_t from_stride, uint16_t* to, int64_t to_stride,
                int64_t rows, int64_t columns) {
  for (int64_t row = 0; row < rows; ++row) {
    kernel_table().to_bf16(from + row * from_stride, to + row * to_stride, columns);
  }
}

// A whole operand, rows shared among the threads.
void round_whole(ThreadPool& pool, const float* from, int64_t stride, uint16_t* to, int64_t rows,
                 int64_t columns) {
  constexpr int64_t kElements = 32768;  // of a task
  pool.parallel_blocks(rows, std::max<int64_t>(1, kElements / columns),
                       [&](int64_t begin, int64_t end) {
                         round_rows(from + begin * stride, stride, to + begin * columns, columns,
                                    end - begin, columns);
                       });
}

}  // namespace

int64_t gemm_bf16_native_workspace(const GemmShape& shape, DType b) {
  const Cut cut(shape, b);
  return cut.a_bytes + cut.b_bytes;
}

void gemm_bf16_native(ThreadPool& pool, const GemmShape& shape, const float* a, int64_t lda,
                      const GemmOperand& b, float beta, float* c, int64_t ldc, void* workspace,
                      const GemmEpilogue& epilogue) {
  const Cut cut(shape, b.dtype);
  auto* room = static_cast<std::byte*>(workspace);
  auto* b_room = room + cut.a_bytes;
  auto* a_rows = reinterpret_cast<uint16_t*>(room);
  const Operand left{a_rows, shape.transpose_a ? shape.m : shape.k, shape.transpose_a};
  round_whole(pool, a, lda, a_rows, shape.transpose_a ? shape.k : shape.m, left.stride);
  const auto* b_rows = static_cast<const float*>(b.data);
  if (cut.whole_b) {
    HETMEM_ASSERT(!shape.transpose_b);
    round_whole(pool, b_rows, b.stride, reinterpret_cast<uint16_t*>(b_room), shape.k, shape.n);
  }
  // Rows [first, first + k) and columns [column, column + n) of B.
  const auto panel_of = [&](int64_t slot, int64_t first, int64_t k, int64_t column, int64_t n) {
    if (b.dtype == DType::kBFloat16) {
      const Operand stored{static_cast<const uint16_t*>(b.data), b.stride, shape.transpose_b};
      return Operand{stored.at(first, column), stored.stride, stored.transposed};
    }
    auto* to = reinterpret_cast<uint16_t*>(b_room + slot * (cut.b_bytes / cut.slots));
    if (shape.transpose_b) {
      round_rows(b_rows + column * b.stride + first, b.stride, to, k, n, k);
    } else {
      round_rows(b_rows + first * b.stride + column, b.stride, to, n, k, n);
    }
    return Operand{to, shape.transpose_b ? k : n, shape.transpose_b};
  };
  const int64_t across = pieces(shape.n, cut.tile_n);
  const auto make_tile = [&](int64_t slot, int64_t tile) {
    const int64_t row = tile / across * cut.tile_m;
    const int64_t column = tile % across * cut.tile_n;
    const int64_t m = std::min(cut.tile_m, shape.m - row);
    const int64_t n = std::min(cut.tile_n, shape.n - column);
    float* to = c + row * ldc + column;
    if (cut.whole_b) {
      const Operand right{reinterpret_cast<uint16_t*>(b_room), shape.n, false};
      const Operand part{right.at(0, column), right.stride, false};
      matmul(true, false, beta == 1.0F)
          .run({left.at(row, 0), left.stride, true}, part, to, ldc, m, n, shape.k);
    } else {
      for (int64_t first = 0; first < shape.k; first += cut.panel) {
        const int64_t k = std::min(cut.panel, shape.k - first);
        const Operand right = panel_of(slot, first, k, column, n);
        matmul(false, shape.transpose_b, beta == 1.0F || first > 0)
            .run({left.at(row, first), left.stride, false}, right, to, ldc, m, n, k);
      }
    }
    if (epilogue) epilogue(row, m, column, n);
  };
  pool.parallel_for(cut.slots, [&](int64_t slot) {
    try {
      for (int64_t tile = slot; tile < cut.tiles; tile += cut.slots) make_tile(slot, tile);
    } catch (const dnnl::error& error) {
      throw Error(ErrorKind::kInternal, std::string("oneDNN refused a bf16 GEMM: ") + error.what());
    }
  });
}

}  // namespace hetmem::ops::cpu
