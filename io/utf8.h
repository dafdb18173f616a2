// UTF-8: validation, repair and character classes, over utf8proc. Pure and thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace hetmem {

// The length of the well-formed character at the start of `text` (not empty), or minus the length
// of the longest part that no character begins with or that breaks off (Unicode 15, table 3-7).
int utf8_character(std::string_view text);
bool is_valid_utf8(std::string_view text);
// As Python's bytes.decode("utf-8", errors="replace"): U+FFFD for each maximal invalid part.
std::string repaired_utf8(std::string_view text);
// Bytes at the end of `text` that begin a character which is not complete yet.
int incomplete_utf8_tail(std::string_view text);

// The normal form NFC; `text` is valid.
std::string nfc(std::string_view text);

// Of the character at the start of valid, not empty text.
struct Utf8Character {
  int32_t code = 0;
  int length = 0;
};
Utf8Character decode_utf8(std::string_view text);
void append_utf8(std::string& text, int32_t code);
bool is_numeric(int32_t code);     // Nd, Nl, No
bool is_whitespace(int32_t code);  // White_Space
bool is_word(int32_t code);        // letters, marks, decimal digits, connectors

}  // namespace hetmem
