#include "io/added_tokens.h"

#include <algorithm>

#include "io/utf8.h"

namespace hetmem {
namespace {

// Where the character before `at` begins.
size_t before(std::string_view text, size_t at) {
  do {
    --at;
  } while (at > 0 && (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80);
  return at;
}

bool ends_with_word(std::string_view text) {
  return !text.empty() && is_word(decode_utf8(text.substr(before(text, text.size()))).code);
}
bool starts_with_word(std::string_view text) {
  return !text.empty() && is_word(decode_utf8(text).code);
}

size_t without_spaces_at_end(std::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    const size_t begin = before(text, end);
    if (!is_whitespace(decode_utf8(text.substr(begin)).code)) break;
    end = begin;
  }
  return end;
}

size_t spaces_at_start(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    const Utf8Character character = decode_utf8(text.substr(at));
    if (!is_whitespace(character.code)) break;
    at += static_cast<size_t>(character.length);
  }
  return at;
}

}  // namespace

AddedTokenMatcher::AddedTokenMatcher(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  std::stable_sort(tokens_.begin(), tokens_.end(), [](const AddedToken& a, const AddedToken& b) {
    return a.content.size() > b.content.size();
  });
  for (const AddedToken& token : tokens_) {
    if (!token.content.empty()) {
      first_.at(static_cast<uint8_t>(token.content[0])).push_back(&token);
    }
  }
}

const AddedToken* AddedTokenMatcher::match_at(std::string_view text, size_t at) const {
  for (const AddedToken* token : first_.at(static_cast<uint8_t>(text[at]))) {
    if (text.substr(at, token->content.size()) == token->content) return token;
  }
  return nullptr;
}

void AddedTokenMatcher::split(std::string_view text, std::vector<Piece>& pieces) const {
  size_t done = 0;
  size_t at = 0;
  while (at < text.size()) {
    const AddedToken* token = match_at(text, at);
    if (token == nullptr) {
      ++at;
      continue;
    }
    size_t begin = at;
    size_t end = at + token->content.size();
    at = end;
    if (token->single_word &&
        (ends_with_word(text.substr(0, begin)) || starts_with_word(text.substr(end)))) {
      continue;
    }
    if (token->left_strip) begin = std::max(done, without_spaces_at_end(text.substr(0, begin)));
    if (token->right_strip) end += spaces_at_start(text.substr(end));
    if (begin > done) pieces.push_back({text.substr(done, begin - done)});
    pieces.push_back({text.substr(begin, end - begin), token->id});
    done = end;
    at = std::max(at, end);
  }
  if (done < text.size()) pieces.push_back({text.substr(done)});
}

}  // namespace hetmem
