#include "targets.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  hetmem::fuzz::read_safetensors({reinterpret_cast<const char*>(data), size});
  return 0;
}
