#include "ops/cpu/isa.h"

#include <cstdlib>
#include <string>

#include "core/error.h"
#include "ops/cpu/isa/kernel_table.h"
#include "ops/ops.h"

namespace hetmem::ops {
namespace cpu {

namespace avx2 {
extern const KernelTable kernel_table_of_isa;
}
namespace avx512 {
extern const KernelTable kernel_table_of_isa;
}

namespace {

Isa detect() {
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
    throw Error(ErrorKind::kBadInput,
                "this processor has no AVX2 and FMA, which hetmem's CPU kernels need");
  }
  const char* wanted = std::getenv("HETMEM_ISA");
  const bool lowered = wanted != nullptr && std::string(wanted) == "avx2";
  const bool has512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return has512 && !lowered ? Isa::kAvx512 : Isa::kAvx2;
}

}  // namespace

Isa current_isa() {
  static const Isa isa = detect();
  return isa;
}

const KernelTable& kernel_table() {
  return current_isa() == Isa::kAvx512 ? avx512::kernel_table_of_isa : avx2::kernel_table_of_isa;
}

}  // namespace cpu

const char* instruction_set() {
  return cpu::current_isa() == cpu::Isa::kAvx512 ? "avx512" : "avx2";
}

bool has_native_bf16() {
  return cpu::current_isa() == cpu::Isa::kAvx512 && __builtin_cpu_supports("avx512bf16");
}

}  // namespace hetmem::ops
