// The block emulator: runs a CUDA kernel compiled as plain C++ on the calling thread, one block
// after another, the threads of a block as fibers that take turns at barriers and warp exchanges.
// For tests. Shared memory is exactly as large as asked for and starts as NaN, so that the address
// sanitizer and the results show what is read or written beside it or too early; a barrier that
// not every thread of a block (of a warp) reaches throws.
//
// One kernel at a time on a thread; the threads that emulate are independent of each other.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

// CUDA's names are as they are.
// NOLINTBEGIN(readability-identifier-naming)
namespace hetmem::ops::cuda_emulated {

struct dim3 {
  explicit dim3(unsigned nx = 1, unsigned ny = 1, unsigned nz = 1) : x(nx), y(ny), z(nz) {}
  unsigned x;
  unsigned y;
  unsigned z;
};

namespace emulator {

// In which order blocks, and threads between barriers, run. A kernel whose results depend on it has
// a race.
enum class Order { kForward, kBackward };
void set_order(Order order);

void run(dim3 grid, dim3 block, int64_t shared, const std::function<void()>& kernel);
void* shared_memory();

// Of the thread that runs.
struct Place {
  dim3 grid_dim;
  dim3 block_dim;
  dim3 block;
  dim3 thread;
};
const Place& place();

void sync_block();
// Gives `bits` to the other lanes of the warp and returns those of lane `source` (which may be any
// lane, the caller's included).
uint64_t exchange(uint64_t bits, unsigned source);
unsigned lane();
// A bit for each lane of the warp whose condition holds.
unsigned ballot(bool condition);

}  // namespace emulator

#define gridDim (emulator::place().grid_dim)
#define blockDim (emulator::place().block_dim)
#define blockIdx (emulator::place().block)
#define threadIdx (emulator::place().thread)

inline void __syncthreads() { emulator::sync_block(); }

template <typename T>
T shuffle_from(T value, unsigned source) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = emulator::exchange(bits, source);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}
template <typename T>
T __shfl_xor_sync(unsigned /*mask*/, T value, int distance) {
  return shuffle_from(value, emulator::lane() ^ static_cast<unsigned>(distance));
}
template <typename T>
T __shfl_down_sync(unsigned /*mask*/, T value, unsigned distance, int width = 32) {
  const unsigned lane = emulator::lane();
  const unsigned last = lane / static_cast<unsigned>(width) * static_cast<unsigned>(width) +
                        static_cast<unsigned>(width) - 1;
  return shuffle_from(value, lane + distance <= last ? lane + distance : lane);
}
inline unsigned __ballot_sync(unsigned /*mask*/, bool condition) {
  return emulator::ballot(condition);
}
inline int __ffs(unsigned bits) { return bits == 0 ? 0 : std::countr_zero(bits) + 1; }

// Rounded once each; the build contracts nothing.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline uint32_t __float_as_uint(float x) { return std::bit_cast<uint32_t>(x); }
inline float __uint_as_float(uint32_t x) { return std::bit_cast<float>(x); }
inline uint32_t __umulhi(uint32_t a, uint32_t b) {
  return static_cast<uint32_t>((static_cast<uint64_t>(a) * b) >> 32);
}

}  // namespace hetmem::ops::cuda_emulated
// NOLINTEND(readability-identifier-naming)
