// The added tokens of `tokenizer.json`: those that are found in text as they are, before BPE sees
// it. Immutable and thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace hetmem {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false;
  bool single_word = false;  // not inside a word
  bool left_strip = false;   // takes the whitespace before it
  bool right_strip = false;  // takes the whitespace after it
  bool normalized = false;   // looked for after the normalizer
};

class AddedTokenMatcher {
 public:
  explicit AddedTokenMatcher(std::vector<AddedToken> tokens);
  // Holds pointers to its own tokens: neither copied nor moved.
  AddedTokenMatcher(const AddedTokenMatcher&) = delete;
  AddedTokenMatcher& operator=(const AddedTokenMatcher&) = delete;
  ~AddedTokenMatcher() = default;
  struct Piece {
    std::string_view text;
    int32_t id = -1;  // of an added token, or -1 for text between
  };
  // Cuts valid UTF-8 text: the leftmost token first, of several the longest.
  void split(std::string_view text, std::vector<Piece>& pieces) const;
  bool empty() const { return tokens_.empty(); }

 private:
  const AddedToken* match_at(std::string_view text, size_t at) const;
  std::vector<AddedToken> tokens_;                         // longest first
  std::array<std::vector<const AddedToken*>, 256> first_;  // by first byte, longest first
};

}  // namespace hetmem
