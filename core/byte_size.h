// ByteSize: sizes as users write them ("1.5GiB", "2GB", "4096") and as messages print them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace hetmem {

// Bytes of "512MiB", "1.5GiB", "2GB" (powers of 1000), "2G" (powers of 1024) or plain bytes. Throws
// Error (kBadInput) on anything else, on a negative size and on one above 2^62.
int64_t parse_byte_size(std::string_view text);
// "1.50 GiB", "12.0 MiB", "512 B": three or four significant digits.
std::string format_byte_size(int64_t bytes);

}  // namespace hetmem
