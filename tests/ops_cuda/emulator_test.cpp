// The emulator itself: that it runs what it should, and finds what a GPU would not say.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <vector>

#include "core/error.h"
#include "ops/cuda/kernel.h"

namespace hetmem::ops::cuda_emulated {
namespace {

void count_kernel(int* visits, int64_t count) {
  const int64_t block =
      blockIdx.x + gridDim.x * (blockIdx.y + static_cast<int64_t>(gridDim.y) * blockIdx.z);
  const int64_t thread =
      threadIdx.x + blockDim.x * (threadIdx.y + static_cast<int64_t>(blockDim.y) * threadIdx.z);
  const int64_t at = block * blockDim.x * blockDim.y * blockDim.z + thread;
  if (at < count) ++visits[at];
}

TEST(Emulator, RunsEveryThreadOfEveryBlockOnce) {
  const int64_t count = 4L * 3 * 2 * 5 * 3 * 2;
  std::vector<int> visits(static_cast<size_t>(count), 0);
  launch_kernel({}, count_kernel, dim3(4, 3, 2), dim3(5, 3, 2), 0, visits.data(), count);
  EXPECT_EQ(visits, std::vector<int>(static_cast<size_t>(count), 1));
  launch_kernel({}, count_kernel, dim3(0), dim3(5), 0, visits.data(), count);
  EXPECT_EQ(visits, std::vector<int>(static_cast<size_t>(count), 1));
}

// Each thread reads what another one of its block wrote before the barrier.
void reverse_kernel(const int* from, int* to) {
  auto* shared = shared_memory<int>();
  shared[threadIdx.x] = from[blockIdx.x * blockDim.x + threadIdx.x];
  __syncthreads();
  to[blockIdx.x * blockDim.x + threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
}

TEST(Emulator, KeepsThreadsTogetherAtBarriers) {
  std::vector<int> from(300);
  std::iota(from.begin(), from.end(), 0);
  for (const emulator::Order order : {emulator::Order::kForward, emulator::Order::kBackward}) {
    emulator::set_order(order);
    std::vector<int> to(from.size(), -1);
    launch_kernel({}, reverse_kernel, dim3(3), dim3(100), 100 * sizeof(int), from.data(),
                  to.data());
    for (int i = 0; i < 300; ++i)
      EXPECT_EQ(to[static_cast<size_t>(i)], i / 100 * 100 + 99 - i % 100);
  }
  emulator::set_order(emulator::Order::kForward);
}

void warp_kernel(float* sums, float* most, unsigned* odd, double* shifted) {
  const auto value = static_cast<float>(threadIdx.x);
  const float sum = warp_sum(value);
  const float largest = warp_max(value);
  sums[threadIdx.x] = sum;
  most[threadIdx.x] = largest;
  odd[threadIdx.x] = __ballot_sync(0xffffffffU, threadIdx.x % 2 == 1);
  shifted[threadIdx.x] = __shfl_down_sync(0xffffffffU, static_cast<double>(value), 3, 16);
}

TEST(Emulator, ExchangesWithinWarps) {
  std::vector<float> sums(64);
  std::vector<float> most(64);
  std::vector<unsigned> odd(64);
  std::vector<double> shifted(64);
  launch_kernel({}, warp_kernel, dim3(1), dim3(64), 0, sums.data(), most.data(), odd.data(),
                shifted.data());
  for (size_t i = 0; i < 64; ++i) {
    const bool second = i >= 32;
    EXPECT_EQ(sums[i], second ? 1520.0F : 496.0F);
    EXPECT_EQ(most[i], second ? 63.0F : 31.0F);
    EXPECT_EQ(odd[i], 0xaaaaaaaaU);
    EXPECT_EQ(shifted[i], static_cast<double>(i % 16 < 13 ? i + 3 : i));
  }
}

void early_kernel(float* to) { to[threadIdx.x] = shared_memory<float>()[threadIdx.x]; }

TEST(Emulator, StartsSharedMemoryAsNaN) {
  std::vector<float> to(8, 0.0F);
  launch_kernel({}, early_kernel, dim3(1), dim3(8), 8 * sizeof(float), to.data());
  for (const float value : to) EXPECT_TRUE(std::isnan(value));
}

void divergent_kernel(bool of_warp) {
  if (threadIdx.x == 5) return;
  if (of_warp) {
    warp_sum(1.0F);
  } else {
    __syncthreads();
  }
}

TEST(Emulator, RefusesABarrierThatAThreadDoesNotReach) {
  EXPECT_THROW(launch_kernel({}, divergent_kernel, dim3(1), dim3(32), 0, false), Error);
  EXPECT_THROW(launch_kernel({}, divergent_kernel, dim3(1), dim3(32), 0, true), Error);
  EXPECT_THROW(launch_kernel({}, divergent_kernel, dim3(1), dim3(16), 0, true), Error);
}

}  // namespace
}  // namespace hetmem::ops::cuda_emulated
