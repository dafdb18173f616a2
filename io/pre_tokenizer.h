// The pre-tokenizers of `tokenizer.json`: text -> words that BPE encodes one by one. Regular
// expressions run on PCRE2 with its JIT; where its classes differ from those of the expressions'
// authors (Oniguruma), they are rewritten. Immutable and thread-safe; a Splitter belongs to one
// thread.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "io/json.h"

namespace hetmem {

class PreTokenizer {
 public:
  // `json`: the object under "pre_tokenizer", or null. Throws Error (kBadInput) naming `source` and
  // what is not implemented.
  PreTokenizer(const SortedJson& json, const std::string& source);
  ~PreTokenizer();
  PreTokenizer(PreTokenizer&&) noexcept;
  PreTokenizer& operator=(PreTokenizer&&) noexcept;

 private:
  friend class Splitter;
  struct Stage;
  void add(const SortedJson& json, const std::string& source);
  std::vector<std::unique_ptr<Stage>> stages_;
};

class Splitter {
 public:
  // The pre-tokenizer must outlive it.
  explicit Splitter(const PreTokenizer& pre_tokenizer);
  ~Splitter();
  Splitter(const Splitter&) = delete;
  Splitter& operator=(const Splitter&) = delete;
  // The words of valid UTF-8 text; they live until the next call.
  const std::vector<std::string_view>& split(std::string_view text);

 private:
  void apply(const PreTokenizer::Stage& stage, std::string_view piece,
             std::vector<std::string_view>& words);
  void split_by_expression(const PreTokenizer::Stage& stage, std::string_view piece,
                           std::vector<std::string_view>& words);

  struct MatchData;
  const PreTokenizer& pre_tokenizer_;
  std::unique_ptr<MatchData> match_;
  std::vector<std::string_view> words_;
  std::vector<std::string_view> next_;
  std::vector<std::unique_ptr<std::string>> prefixed_;  // pieces with a space put before them
};

}  // namespace hetmem
