#include "io/pre_tokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>

#include "core/error.h"
#include "io/utf8.h"

namespace hetmem {
namespace {

// GPT-2's split (Radford et al. 2019), which the ByteLevel pre-tokenizer stands for.
constexpr const char* kByteLevelPattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
// Unicode's White_Space. PCRE2's own \s also takes U+180E.
constexpr std::string_view kSpaces =
    R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";

std::string with_unicode_spaces(std::string_view pattern) {
  std::string result;
  bool in_class = false;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size()) {
      const char escaped = pattern[++i];
      if (escaped == 's') {
        result += in_class ? std::string(kSpaces) : "[" + std::string(kSpaces) + "]";
      } else if (escaped == 'S' && !in_class) {
        result += "[^" + std::string(kSpaces) + "]";
      } else {
        result += {c, escaped};
      }
      continue;
    }
    if (c == '[') in_class = true;
    if (c == ']') in_class = false;
    result += c;
  }
  return result;
}

std::string text_of(const SortedJson& json, const char* key, const std::string& source) {
  if (!json.contains(key) || !json[key].is_string()) {
    throw Error(ErrorKind::kBadInput,
                source + ": a pre_tokenizer has no text under \"" + key + "\"");
  }
  return json[key].get<std::string>();
}

bool flag_of(const SortedJson& json, const char* key, bool fallback, const std::string& source) {
  if (!json.contains(key)) return fallback;
  if (!json[key].is_boolean()) {
    throw Error(ErrorKind::kBadInput, source + ": \"" + key + "\" must be true or false");
  }
  return json[key].get<bool>();
}

}  // namespace

struct PreTokenizer::Stage {
  struct Free {
    void operator()(pcre2_code* compiled) const { pcre2_code_free(compiled); }
  };
  using Code = std::unique_ptr<pcre2_code, Free>;
  static Code compile(const std::string& pattern, const std::string& source);

  enum class Kind { kExpression, kDigits, kPrefixSpace } kind = Kind::kExpression;
  bool individual_digits = false;
  Code code;
  std::string source;
};

PreTokenizer::Stage::Code PreTokenizer::Stage::compile(const std::string& pattern,
                                                       const std::string& source) {
  int error = 0;
  PCRE2_SIZE at = 0;
  const std::string text = with_unicode_spaces(pattern);
  Code code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                          PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &at, nullptr));
  if (code == nullptr) {
    std::array<PCRE2_UCHAR, 256> message{};
    pcre2_get_error_message(error, message.data(), message.size());
    throw Error(ErrorKind::kBadInput, source + ": the pattern \"" + pattern + "\" is not valid: " +
                                          reinterpret_cast<const char*>(message.data()));
  }
  // Without a JIT for this machine the interpreter takes over.
  pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);
  return code;
}

PreTokenizer::PreTokenizer(const SortedJson& json, const std::string& source) {
  if (json.is_null()) return;
  add(json, source);
}
PreTokenizer::~PreTokenizer() = default;
PreTokenizer::PreTokenizer(PreTokenizer&&) noexcept = default;
PreTokenizer& PreTokenizer::operator=(PreTokenizer&&) noexcept = default;

void PreTokenizer::add(const SortedJson& json, const std::string& source) {
  if (!json.is_object()) {
    throw Error(ErrorKind::kBadInput, source + ": \"pre_tokenizer\" must be an object");
  }
  const auto append = [&](Stage::Kind kind) -> Stage& {
    stages_.push_back(std::make_unique<Stage>());
    stages_.back()->kind = kind;
    stages_.back()->source = source;
    return *stages_.back();
  };
  const std::string type = text_of(json, "type", source);
  if (type == "Sequence") {
    if (!json.contains("pretokenizers") || !json["pretokenizers"].is_array()) {
      throw Error(ErrorKind::kBadInput, source + ": a Sequence has no list \"pretokenizers\"");
    }
    for (const SortedJson& part : json["pretokenizers"]) add(part, source);
  } else if (type == "ByteLevel") {
    if (flag_of(json, "add_prefix_space", true, source)) append(Stage::Kind::kPrefixSpace);
    if (flag_of(json, "use_regex", true, source)) {
      append(Stage::Kind::kExpression).code = Stage::compile(kByteLevelPattern, source);
    }
  } else if (type == "Digits") {
    append(Stage::Kind::kDigits).individual_digits =
        flag_of(json, "individual_digits", false, source);
  } else if (type == "Split") {
    const std::string behavior = text_of(json, "behavior", source);
    if (behavior != "Isolated" || flag_of(json, "invert", false, source)) {
      throw Error(ErrorKind::kBadInput,
                  source + ": Split with behavior " + behavior + " or inverted is not implemented");
    }
    if (!json.contains("pattern") || !json["pattern"].is_object()) {
      throw Error(ErrorKind::kBadInput, source + ": a Split has no \"pattern\"");
    }
    const SortedJson& pattern = json["pattern"];
    if (!pattern.contains("Regex")) {
      throw Error(ErrorKind::kBadInput,
                  source + ": Split by a pattern that is not a Regex is not implemented");
    }
    append(Stage::Kind::kExpression).code =
        Stage::compile(text_of(pattern, "Regex", source), source);
  } else {
    throw Error(ErrorKind::kBadInput,
                source + ": pre_tokenizer \"" + type + "\" is not implemented");
  }
}

struct Splitter::MatchData {
  struct Free {
    void operator()(pcre2_match_data* match) const { pcre2_match_data_free(match); }
  };
  std::unique_ptr<pcre2_match_data, Free> data{pcre2_match_data_create(1, nullptr)};
};

Splitter::Splitter(const PreTokenizer& pre_tokenizer)
    : pre_tokenizer_(pre_tokenizer), match_(std::make_unique<MatchData>()) {}
Splitter::~Splitter() = default;

// Matches are words; so is what lies between them.
void Splitter::split_by_expression(const PreTokenizer::Stage& stage, std::string_view piece,
                                   std::vector<std::string_view>& words) {
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(piece.data());
  const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(match_->data.get());
  size_t at = 0;    // where the search goes on
  size_t done = 0;  // what is in words
  while (at < piece.size()) {
    const int result = pcre2_match(stage.code.get(), subject, piece.size(), at, PCRE2_NO_UTF_CHECK,
                                   match_->data.get(), nullptr);
    if (result == PCRE2_ERROR_NOMATCH) break;
    if (result < 0) {
      throw Error(ErrorKind::kBadInput, stage.source + ": the pattern gave up on the text (PCRE2 " +
                                            std::to_string(result) + ")");
    }
    if (bounds[0] > done) words.push_back(piece.substr(done, bounds[0] - done));
    if (bounds[1] > bounds[0]) {
      words.push_back(piece.substr(bounds[0], bounds[1] - bounds[0]));
      at = bounds[1];
    } else {  // an empty match: on to the next character
      at = bounds[1] < piece.size()
               ? bounds[1] + static_cast<size_t>(decode_utf8(piece.substr(bounds[1])).length)
               : piece.size();
    }
    done = bounds[1];
  }
  if (done < piece.size()) words.push_back(piece.substr(done));
}

void Splitter::apply(const PreTokenizer::Stage& stage, std::string_view piece,
                     std::vector<std::string_view>& words) {
  using Kind = PreTokenizer::Stage::Kind;
  if (stage.kind == Kind::kExpression) return split_by_expression(stage, piece, words);
  if (stage.kind == Kind::kPrefixSpace) {
    if (piece.front() == ' ') return words.push_back(piece);
    prefixed_.push_back(std::make_unique<std::string>(" " + std::string(piece)));
    return words.push_back(*prefixed_.back());
  }
  size_t begin = 0;  // of the run under way
  bool in_digits = false;
  for (size_t at = 0; at < piece.size();) {
    const auto byte = static_cast<uint8_t>(piece[at]);
    const Utf8Character character =
        byte < 0x80 ? Utf8Character{byte, 1} : decode_utf8(piece.substr(at));
    const bool digit = byte < 0x80 ? byte >= '0' && byte <= '9' : is_numeric(character.code);
    if ((digit != in_digits || (digit && stage.individual_digits)) && at > begin) {
      words.push_back(piece.substr(begin, at - begin));
      begin = at;
    }
    in_digits = digit;
    at += static_cast<size_t>(character.length);
  }
  words.push_back(piece.substr(begin));
}

const std::vector<std::string_view>& Splitter::split(std::string_view text) {
  words_.clear();
  prefixed_.clear();
  if (!text.empty()) words_.push_back(text);
  for (const auto& stage : pre_tokenizer_.stages_) {
    next_.clear();
    for (const std::string_view piece : words_) apply(*stage, piece, next_);
    words_.swap(next_);
  }
  return words_;
}

}  // namespace hetmem
