// Tokenizer: the byte-level BPE of a Hugging Face `tokenizer.json` (GPT-2, Llama 3, Qwen and SmolLM
// families), to the same ids as the package `tokenizers` with add_special_tokens=False. Immutable
// and thread-safe; an Encoder belongs to one thread.
//
//   const Tokenizer tokenizer = Tokenizer::load("SmolLM2-135M");
//   std::vector<int32_t> ids = tokenizer.encode("def main():");
//   std::string text = tokenizer.decode(ids);
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace hetmem {

class Tokenizer {
 public:
  // Reads FOLDER/tokenizer.json. Throws Error (kBadInput) that names the file and what in it is
  // broken or not implemented.
  static Tokenizer load(const std::string& folder);
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // Text that is no UTF-8 is first repaired as Python's errors="replace" does.
  std::vector<int32_t> encode(std::string_view text) const;
  // The same between the special tokens that the tokenizer's template puts around a text (Llama 3:
  // <|begin_of_text|> before it), as transformers encodes a prompt.
  std::vector<int32_t> encode_prompt(std::string_view text) const;
  // The bytes of the tokens; ids outside the vocabulary give none.
  std::string decode(std::span<const int32_t> ids, bool skip_special = false) const;
  std::string_view bytes_of(int32_t id) const;
  std::optional<int32_t> id_of(std::string_view token) const;
  bool is_special(int32_t id) const;
  // One more than the largest id.
  int64_t vocabulary() const;
  // What ends a document: <|endoftext|> or <|end_of_text|> where there is one, else the first of
  // the configuration's end-of-sequence tokens. Throws Error (kBadInput) where there is none.
  int32_t end_of_text(const std::vector<int64_t>& eos_token_ids) const;

 private:
  friend class Encoder;
  struct State;
  explicit Tokenizer(std::unique_ptr<const State> state);
  std::unique_ptr<const State> state_;
};

// Encodes many texts one after the other: keeps the match data and a cache of words. One thread.
class Encoder {
 public:
  // The tokenizer must outlive it.
  explicit Encoder(const Tokenizer& tokenizer);
  ~Encoder();
  Encoder(const Encoder&) = delete;
  Encoder& operator=(const Encoder&) = delete;
  // Appends the ids of `text` to `ids`.
  void encode(std::string_view text, std::vector<int32_t>& ids);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Gives out text as tokens come, never half a character.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}
  // What can be shown after one more token; special tokens show nothing.
  std::string next(int32_t id);
  // What is left, repaired.
  std::string finish();

 private:
  const Tokenizer& tokenizer_;
  std::string pending_;
};

}  // namespace hetmem
