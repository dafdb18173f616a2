// Text and token files on their way to a token stream: which files the data are, and the writing of
// token files (layout of llm.c) from text with bounded memory. Not thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "io/file.h"
#include "io/tokenizer.h"

namespace hetmem {

// PATHS with folders replaced by the files in them (recursively, in byte order) that match `glob`:
// against the name, or against the path inside the folder where the glob holds a '/'. Throws Error
// (kBadInput) for a path that is not there or no regular file, and a folder without a match; `flag`
// names the option.
std::vector<std::string> data_files(const std::vector<std::string>& paths, const std::string& glob,
                                    const std::string& flag);

// Whether a file holds tokens (".bin"), not text.
bool is_token_file(const std::string& path);

// A token file under construction; finish() makes it valid.
class TokenFileWriter {
 public:
  // uint16 tokens where `vocabulary` allows, else uint32. Throws Error (kStorage).
  TokenFileWriter(const std::string& path, int64_t vocabulary);
  void append(std::span<const int32_t> tokens);
  void finish();
  int64_t tokens() const { return count_; }

 private:
  void flush();
  File file_;
  bool wide_;
  int64_t count_ = 0;
  int64_t at_;
  std::vector<char> buffer_;
};

// Appends the tokens of a file: a token file's as they are; a text file is one document, a line of
// a .jsonl (its "text") is one; `end_of_text` follows each document. Throws Error (kBadInput)
// naming the file, and the line of a .jsonl.
class DataTokenizer {
 public:
  // `vocabulary`: the model's, which may have more tokens than the tokenizer.
  DataTokenizer(const Tokenizer& tokenizer, int32_t end_of_text, int64_t vocabulary,
                TokenFileWriter& writer);
  void add(const std::string& path);
  int64_t bytes() const { return bytes_; }  // of text

 private:
  void add_text(const File& file);
  void add_lines(const File& file);
  void add_document_line(const std::string& path, int64_t number, std::string_view line);
  void encode(std::string_view text);
  void end_document();

  Encoder encoder_;
  int64_t vocabulary_;
  int32_t end_of_text_;
  TokenFileWriter& writer_;
  std::vector<int32_t> ids_;
  int64_t bytes_ = 0;
};

}  // namespace hetmem
