#include "core/byte_size.h"

#include <array>
#include <cctype>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "core/error.h"

namespace hetmem {
namespace {

struct Unit {
  std::string_view suffix;
  double bytes;
};
constexpr double kKi = 1024.0;
constexpr int64_t kMost = int64_t{1} << 62;
constexpr std::array<Unit, 18> kUnits{{{"", 1},
                                       {"b", 1},
                                       {"k", kKi},
                                       {"m", kKi* kKi},
                                       {"g", kKi* kKi* kKi},
                                       {"t", kKi* kKi* kKi* kKi},
                                       {"kib", kKi},
                                       {"mib", kKi* kKi},
                                       {"gib", kKi* kKi* kKi},
                                       {"tib", kKi* kKi* kKi* kKi},
                                       {"kb", 1e3},
                                       {"mb", 1e6},
                                       {"gb", 1e9},
                                       {"tb", 1e12},
                                       {"ki", kKi},
                                       {"mi", kKi* kKi},
                                       {"gi", kKi* kKi* kKi},
                                       {"ti", kKi* kKi* kKi* kKi}}};

[[noreturn]] void refuse(std::string_view text) {
  throw Error(
      ErrorKind::kBadInput,
      "\"" + std::string(text) + "\" is not a size; write 512MiB, 1.5GiB, 2GB or whole bytes");
}

[[noreturn]] void refuse_large(std::string_view text) {
  throw Error(ErrorKind::kBadInput, "\"" + std::string(text) +
                                        "\" is too large; a size is at most 2^62 bytes, " +
                                        std::to_string(kMost) + " (4194304TiB)");
}

}  // namespace

int64_t parse_byte_size(std::string_view text) {
  double number = 0;
  const auto [end, code] =
      std::from_chars(text.data(), text.data() + text.size(), number, std::chars_format::fixed);
  if (code == std::errc::result_out_of_range) refuse_large(text);
  if (code != std::errc() || !(number >= 0) || std::isinf(number)) refuse(text);
  std::string suffix;
  for (const char* at = end; at != text.data() + text.size(); ++at) {
    if (*at != ' ') suffix += static_cast<char>(std::tolower(static_cast<unsigned char>(*at)));
  }
  for (const Unit& unit : kUnits) {
    if (unit.suffix != suffix) continue;
    const double bytes = number * unit.bytes;
    if (!(bytes <= static_cast<double>(kMost))) refuse_large(text);
    if (unit.bytes == 1 && bytes != std::floor(bytes)) refuse(text);
    return std::llround(std::floor(bytes));
  }
  refuse(text);
}

std::string format_byte_size(int64_t bytes) {
  constexpr std::array<const char*, 5> kNames{"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (std::fabs(value) >= kKi && unit + 1 < kNames.size()) {
    value /= kKi;
    ++unit;
  }
  std::array<char, 48> text{};
  const int decimals = unit == 0 ? 0 : (std::fabs(value) < 10 ? 2 : 1);
  std::snprintf(text.data(), text.size(), "%.*f %s", decimals, value, kNames[unit]);
  return text.data();
}

}  // namespace hetmem
