// What codes of CUDA are to whoever runs the binary. Needs the runtime, and no GPU.
#include <gtest/gtest.h>

#include <string>

#include "core/error.h"
#include "device/cuda/cuda_stream.h"

namespace hetmem {
namespace {

int exit_code_of(cudaError_t code) {
  try {
    check_cuda(code, "do this");
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(cudaGetErrorName(code)), std::string::npos);
    return exit_code(error.kind());
  }
  return 0;
}

TEST(CudaErrors, HaveTheExitCodesOfTheContract) {
  EXPECT_EQ(exit_code_of(cudaSuccess), 0);
  EXPECT_EQ(exit_code_of(cudaErrorDevicesUnavailable), 2);
  EXPECT_EQ(exit_code_of(cudaErrorInsufficientDriver), 2);
  EXPECT_EQ(exit_code_of(cudaErrorMemoryAllocation), 3);
  EXPECT_EQ(exit_code_of(cudaErrorECCUncorrectable), 4);
  EXPECT_EQ(exit_code_of(cudaErrorUnknown), 4);
  // A mistake in a kernel, or in how it is called.
  EXPECT_EQ(exit_code_of(cudaErrorIllegalAddress), 1);
  EXPECT_EQ(exit_code_of(cudaErrorInvalidValue), 1);
}

}  // namespace
}  // namespace hetmem
