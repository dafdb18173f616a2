// What a kernel file includes: the words of CUDA C++, the launch of a kernel, and the few helpers
// that kernels share. Compiled by nvcc they are the device's; compiled as plain C++ they are those
// of the block emulator, under which the tests run the same files on a machine without a GPU.
//
// Rules that keep both alike: shared memory is dynamic only (shared_memory<T>()), blocks that use
// shuffles or ballots have whole warps, every thread of a block reaches every barrier, and no
// kernel uses atomics, so that results depend on nothing but the operands.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#include "device/cuda/cuda_stream.h"
// Where the compiled form lives; the emulated one has a namespace of its own, so that a test links
// both.
#define HETMEM_CUDA_NAMESPACE cuda_kernels
#define HETMEM_UNROLL _Pragma("unroll")
#else
#define HETMEM_CUDA_NAMESPACE cuda_emulated
#define HETMEM_UNROLL
#include "ops/cuda/emulated/emulator.h"
#endif

namespace hetmem::ops::HETMEM_CUDA_NAMESPACE {

constexpr int kWarp = 32;

#ifdef __CUDACC__

// Where work is enqueued.
struct Queue {
  cudaStream_t stream = nullptr;
};

// The block's shared memory, of the size it was launched with.
template <typename T>
__device__ T* shared_memory() {
  extern __shared__ __align__(16) unsigned char hetmem_shared[];
  return reinterpret_cast<T*>(hetmem_shared);
}

// Enqueues kernel(arguments...) on a grid of blocks with `shared` bytes each. Nothing for an empty
// grid.
template <typename... Parameters, typename... Arguments>
void launch_kernel(const Queue& queue, void (*kernel)(Parameters...), dim3 grid, dim3 block,
                   int64_t shared, const Arguments&... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  constexpr int64_t kWithoutAsking = 48 * 1024;
  if (shared > kWithoutAsking) {
    check_cuda(
        cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
        "give a kernel " + std::to_string(shared) + " bytes of shared memory");
  }
  kernel<<<grid, block, static_cast<size_t>(shared), queue.stream>>>(
      static_cast<Parameters>(arguments)...);
  check_cuda(cudaGetLastError(), "launch a kernel");
}

#else

struct Queue {};

template <typename T>
T* shared_memory() {
  return static_cast<T*>(emulator::shared_memory());
}

template <typename... Parameters, typename... Arguments>
void launch_kernel(const Queue&, void (*kernel)(Parameters...), dim3 grid, dim3 block,
                   int64_t shared, const Arguments&... arguments) {
  emulator::run(grid, block, shared, [&] { kernel(static_cast<Parameters>(arguments)...); });
}

#endif

// Blocks of `block` that cover `count`.
inline unsigned blocks_for(int64_t count, int64_t block) {
  return static_cast<unsigned>((count + block - 1) / block);
}

// The sum of a value over the lanes of a warp, the same bits in every lane: added as a tree, by
// exchanging halves.
__device__ inline float warp_sum(float value) {
  HETMEM_UNROLL
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(0xffffffffU, value, distance);
  }
  return value;
}
__device__ inline float warp_max(float value) {
  HETMEM_UNROLL
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    value = fmaxf(value, __shfl_xor_sync(0xffffffffU, value, distance));
  }
  return value;
}

// The largest value of a block of threads, in every thread. `parts`: kBlockWarps floats, which may
// be used again afterwards.
template <int kBlockWarps>
__device__ float block_max(float value, float* parts) {
  value = warp_max(value);
  if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = value;
  __syncthreads();
  float most = parts[0];
  for (int i = 1; i < kBlockWarps; ++i) most = fmaxf(most, parts[i]);
  __syncthreads();
  return most;
}

// Sets a float range to zero (element-wise.cu).
void clear(const Queue& queue, float* to, int64_t count);

template <typename Body>
__global__ void for_each_kernel(Body body, int64_t count) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += stride) {
    body(i);
  }
}

// Runs body(i) for i in [0, count), a thread each; `body` is a value with a device operator().
template <typename Body>
void for_each(const Queue& queue, int64_t count, const Body& body) {
  constexpr int64_t kThreads = 256;
  constexpr int64_t kMostBlocks = 65536;  // beyond, threads take several
  const int64_t blocks = (count + kThreads - 1) / kThreads;
  launch_kernel(queue, for_each_kernel<Body>,
                dim3(static_cast<unsigned>(blocks < kMostBlocks ? blocks : kMostBlocks)),
                dim3(kThreads), 0, body, count);
}

}  // namespace hetmem::ops::HETMEM_CUDA_NAMESPACE
