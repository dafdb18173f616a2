#include "io/utf8.h"

#include <utf8proc.h>

#include <cstdlib>
#include <memory>

#include "core/error.h"

namespace hetmem {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

uint8_t byte_at(std::string_view text, size_t i) { return static_cast<uint8_t>(text[i]); }

// What may follow a lead byte: how many bytes, and the range of the first of them.
struct Lead {
  int following = -1;
  uint8_t low = 0x80;
  uint8_t high = 0xBF;
};

Lead lead_of(uint8_t byte) {
  if (byte < 0x80) return {0};
  if (byte >= 0xC2 && byte <= 0xDF) return {1};
  if (byte == 0xE0) return {2, 0xA0, 0xBF};
  if (byte == 0xED) return {2, 0x80, 0x9F};  // no surrogates
  if (byte >= 0xE1 && byte <= 0xEF) return {2};
  if (byte == 0xF0) return {3, 0x90, 0xBF};
  if (byte >= 0xF1 && byte <= 0xF3) return {3};
  if (byte == 0xF4) return {3, 0x80, 0x8F};
  return {};
}

utf8proc_category_t category(int32_t code) { return utf8proc_category(code); }

}  // namespace

int utf8_character(std::string_view text) {
  const Lead lead = lead_of(byte_at(text, 0));
  if (lead.following < 0) return -1;
  for (int i = 1; i <= lead.following; ++i) {
    if (static_cast<size_t>(i) >= text.size()) return -i;
    const uint8_t byte = byte_at(text, static_cast<size_t>(i));
    if (byte < (i == 1 ? lead.low : 0x80) || byte > (i == 1 ? lead.high : 0xBF)) return -i;
  }
  return lead.following + 1;
}

bool is_valid_utf8(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    if (byte_at(text, at) < 0x80) {
      ++at;
      continue;
    }
    const int length = utf8_character(text.substr(at));
    if (length < 0) return false;
    at += static_cast<size_t>(length);
  }
  return true;
}

std::string repaired_utf8(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  while (!text.empty()) {
    const int length = utf8_character(text);
    const auto taken = static_cast<size_t>(std::abs(length));
    result.append(length > 0 ? text.substr(0, taken) : kReplacement);
    text.remove_prefix(taken);
  }
  return result;
}

int incomplete_utf8_tail(std::string_view text) {
  for (size_t back = 1; back <= 3 && back <= text.size(); ++back) {
    const std::string_view tail = text.substr(text.size() - back);
    const Lead lead = lead_of(byte_at(tail, 0));
    if (lead.following <= 0 && byte_at(tail, 0) >= 0x80 && byte_at(tail, 0) < 0xC0) continue;
    const bool open =
        lead.following >= static_cast<int>(back) && utf8_character(tail) == -static_cast<int>(back);
    return open ? static_cast<int>(back) : 0;
  }
  return 0;
}

std::string nfc(std::string_view text) {
  utf8proc_uint8_t* made = nullptr;
  const utf8proc_ssize_t length =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                   static_cast<utf8proc_ssize_t>(text.size()), &made,
                   static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(made, &std::free);
  HETMEM_ASSERT(length >= 0);
  return {reinterpret_cast<const char*>(made), static_cast<size_t>(length)};
}

Utf8Character decode_utf8(std::string_view text) {
  utf8proc_int32_t code = 0;
  const utf8proc_ssize_t length =
      utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                       static_cast<utf8proc_ssize_t>(text.size()), &code);
  HETMEM_ASSERT(length > 0);
  return {code, static_cast<int>(length)};
}

void append_utf8(std::string& text, int32_t code) {
  utf8proc_uint8_t bytes[4];
  const utf8proc_ssize_t length = utf8proc_encode_char(code, bytes);
  text.append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(length));
}

bool is_numeric(int32_t code) {
  const utf8proc_category_t kind = category(code);
  return kind == UTF8PROC_CATEGORY_ND || kind == UTF8PROC_CATEGORY_NL ||
         kind == UTF8PROC_CATEGORY_NO;
}

bool is_whitespace(int32_t code) {
  if ((code >= 9 && code <= 13) || code == 0x85) return true;
  const utf8proc_category_t kind = category(code);
  return kind == UTF8PROC_CATEGORY_ZS || kind == UTF8PROC_CATEGORY_ZL ||
         kind == UTF8PROC_CATEGORY_ZP;
}

bool is_word(int32_t code) {
  switch (category(code)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return false;
  }
}

}  // namespace hetmem
