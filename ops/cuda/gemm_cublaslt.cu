// Products by cuBLASLt: its heuristic is asked once for each shape, stride and alignment, with a
// limit on its workspace that depends on the shape alone, so that the algorithm, and with it every
// bit, is the same from call to call. fp32 products are true fp32 (CUBLAS_COMPUTE_32F: no TF32),
// and sums that are split are gathered in the workspace, not by atomics.
#include <algorithm>
#include <array>
#include <map>
#include <memory>

#include "core/error.h"
#include "ops/cuda/cublaslt.h"
#include "ops/cuda/gemm.h"

namespace hetmem::ops::HETMEM_CUDA_NAMESPACE {
namespace {

struct Destroy {
  void operator()(cublasLtHandle_t handle) const { cublaslt().destroy(handle); }
  void operator()(cublasLtMatmulDesc_t operation) const { cublaslt().destroy_operation(operation); }
  void operator()(cublasLtMatrixLayout_t layout) const { cublaslt().destroy_layout(layout); }
  void operator()(cublasLtMatmulPreference_t preference) const {
    cublaslt().destroy_preference(preference);
  }
};
template <typename Pointer>
using Owned = std::unique_ptr<std::remove_pointer_t<Pointer>, Destroy>;

// The largest power of two up to 16 that divides an address and the bytes between columns.
uint32_t alignment_of(const void* data, int64_t stride, int64_t element_bytes) {
  const auto bits = reinterpret_cast<uint64_t>(data) |
                    static_cast<uint64_t>(stride * element_bytes) | uint64_t{16};
  return static_cast<uint32_t>(bits & (~bits + 1));
}

// cuBLAS counts in columns: our row-major C = A B is its C^T = B^T A^T, so that its left operand is
// our right one and a matrix that is not transposed here is not there either.
class Product {
 public:
  Product(GemmDtype dtype, const GemmShape& shape, const GemmOperand& a, const GemmOperand& b,
          const GemmResult& c, int64_t room_bytes)
      : lt_(cublaslt()),
        element_(dtype == GemmDtype::kFloat32 ? CUDA_R_32F : CUDA_R_16BF),
        element_bytes_(dtype == GemmDtype::kFloat32 ? 4 : 2),
        key_{shape.m,
             shape.n,
             shape.k,
             static_cast<int64_t>(shape.transpose_a) + 2 * static_cast<int64_t>(shape.transpose_b),
             a.stride,
             b.stride,
             c.stride,
             element_bytes_,
             alignment_of(a.data, a.stride, element_bytes_),
             alignment_of(b.data, b.stride, element_bytes_),
             alignment_of(c.data, c.stride, sizeof(float)),
             room_bytes} {
    make_operation(shape);
    left_ = layout(element_, shape.transpose_b ? shape.k : shape.n,
                   shape.transpose_b ? shape.n : shape.k, b.stride);
    right_ = layout(element_, shape.transpose_a ? shape.m : shape.k,
                    shape.transpose_a ? shape.k : shape.m, a.stride);
    result_ = layout(CUDA_R_32F, shape.n, shape.m, c.stride);
  }

  void run(const Queue& queue, const GemmOperand& a, const GemmOperand& b, float beta,
           const GemmResult& c, const GemmRoom& room) {
    const cublasLtMatmulAlgo_t& chosen = algorithm();
    const float alpha = 1.0F;
    lt_.check(lt_.matmul(handle(), operation_.get(), &alpha, b.data, left_.get(), a.data,
                         right_.get(), &beta, c.data, result_.get(), c.data, result_.get(), &chosen,
                         room.data, static_cast<size_t>(room.bytes), queue.stream),
              "multiply " + text());
  }

 private:
  using Key = std::array<int64_t, 12>;

  void make_operation(const GemmShape& shape) {
    cublasLtMatmulDesc_t operation = nullptr;
    lt_.check(lt_.create_operation(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F),
              "describe a product");
    operation_.reset(operation);
    const cublasOperation_t left = shape.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t right = shape.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    lt_.check(lt_.set_operation(operation, CUBLASLT_MATMUL_DESC_TRANSA, &left, sizeof(left)),
              "describe a product");
    lt_.check(lt_.set_operation(operation, CUBLASLT_MATMUL_DESC_TRANSB, &right, sizeof(right)),
              "describe a product");
  }

  Owned<cublasLtMatrixLayout_t> layout(cudaDataType_t type, int64_t rows, int64_t columns,
                                       int64_t stride) const {
    cublasLtMatrixLayout_t made = nullptr;
    lt_.check(lt_.create_layout(&made, type, static_cast<uint64_t>(rows),
                                static_cast<uint64_t>(columns), stride),
              "describe an operand");
    return Owned<cublasLtMatrixLayout_t>(made);
  }

  // One a thread: a stream's thread stays with its device.
  static cublasLtHandle_t handle() {
    thread_local const Owned<cublasLtHandle_t> owned = [] {
      cublasLtHandle_t made = nullptr;
      cublaslt().check(cublaslt().create(&made), "start on this device");
      return Owned<cublasLtHandle_t>(made);
    }();
    return owned.get();
  }

  const cublasLtMatmulAlgo_t& algorithm() const {
    thread_local std::map<Key, cublasLtMatmulAlgo_t> known;
    const auto found = known.find(key_);
    if (found != known.end()) return found->second;
    return known.emplace(key_, find_algorithm()).first->second;
  }

  cublasLtMatmulAlgo_t find_algorithm() const {
    cublasLtMatmulPreference_t made = nullptr;
    lt_.check(lt_.create_preference(&made), "describe a choice");
    const Owned<cublasLtMatmulPreference_t> preference(made);
    const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
      lt_.check(lt_.set_preference(made, attribute, &value, sizeof(value)), "describe a choice");
    };
    set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(key_[11]));
    set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
        static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, static_cast<uint32_t>(key_[9]));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, static_cast<uint32_t>(key_[8]));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, static_cast<uint32_t>(key_[10]));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, static_cast<uint32_t>(key_[10]));
    cublasLtMatmulHeuristicResult_t best{};
    int count = 0;
    lt_.check(lt_.find_algorithm(handle(), operation_.get(), left_.get(), right_.get(),
                                 result_.get(), result_.get(), made, 1, &best, &count),
              "choose an algorithm for " + text());
    lt_.check(count > 0 ? best.state : CUBLAS_STATUS_NOT_SUPPORTED,
              "find an algorithm for " + text());
    return best.algo;
  }

  std::string text() const {
    return "[" + std::to_string(key_[0]) + ", " + std::to_string(key_[2]) + "] by [" +
           std::to_string(key_[2]) + ", " + std::to_string(key_[1]) + "] in " +
           (element_bytes_ == 4 ? "float32" : "bfloat16");
  }

  const CublasLt& lt_;
  cudaDataType_t element_;
  int64_t element_bytes_;
  Key key_;  // all that the choice of an algorithm depends on
  Owned<cublasLtMatmulDesc_t> operation_;
  Owned<cublasLtMatrixLayout_t> left_;
  Owned<cublasLtMatrixLayout_t> right_;
  Owned<cublasLtMatrixLayout_t> result_;
};

}  // namespace

void library_gemm(const Queue& queue, GemmDtype dtype, const GemmShape& shape, const GemmOperand& a,
                  const GemmOperand& b, float beta, const GemmResult& c, const GemmRoom& room) {
  Product(dtype, shape, a, b, c, room.bytes).run(queue, a, b, beta, c, room);
}

}  // namespace hetmem::ops::HETMEM_CUDA_NAMESPACE
