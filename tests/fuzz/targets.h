// What is fuzzed: any bytes at all are read or refused with an Error, never worse. The mutation
// tests run the same functions.
#pragma once

#include <cstdint>
#include <string_view>

namespace hetmem::fuzz {

// A safetensors file: headers checked, every tensor read. True where it was accepted.
bool read_safetensors(std::string_view bytes);
// A tokenizer.json, then text through it and back. True where it was accepted.
bool use_tokenizer(std::string_view json, std::string_view text);

}  // namespace hetmem::fuzz
