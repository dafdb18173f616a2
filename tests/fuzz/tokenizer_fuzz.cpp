// The input is a tokenizer.json, then, behind the first NUL byte, a text.
#include "targets.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t end = input.find('\0');
  hetmem::fuzz::use_tokenizer(input.substr(0, end),
                              end == std::string_view::npos ? "" : input.substr(end + 1));
  return 0;
}
