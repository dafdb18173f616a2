// Token files and the windows of a token stream. Files are read by position, never mapped; their
// layouts are those of llm.c (and its 32-bit form) and of LLMQ. Reading is thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "io/file.h"

namespace hetmem {

// The header of llm.c's layout, and of its 32-bit form.
constexpr int64_t kTokenHeaderBytes = 1024;
std::vector<int32_t> token_file_header(bool wide, int64_t tokens);

// What a run is trained on: its number of tokens, and a sum of their ids.
struct DataIdentity {
  int64_t tokens = 0;
  std::string sum;  // XXH3-128
  bool operator==(const DataIdentity&) const = default;
};

class TokenDataset {
 public:
  // The files follow each other as one stream. Throws Error (kBadInput) that names the file: not a
  // token file, truncated, or (all together) shorter than one window of `sequence` + 1 tokens.
  TokenDataset(const std::vector<std::string>& paths, int64_t sequence, int64_t vocabulary);

  int64_t tokens() const { return total_; }
  // Window w holds tokens [w * T, w * T + T]: T inputs, the last T are labels.
  int64_t windows() const { return (total_ - 1) / sequence_; }
  // `window`: T + 1 ids. Throws Error (kBadInput) for an id outside the vocabulary, naming the file
  // and the position.
  void read_window(int64_t index, std::span<int32_t> window) const;
  // Tokens [first, first + tokens.size()) of the stream.
  void read(int64_t first, std::span<int32_t> tokens) const;
  // Reads the first `most` tokens, checks that their ids are in the vocabulary, and sums them up.
  // Data that differs beyond them, and has as many tokens, has the same identity.
  DataIdentity check_ids(int64_t most) const;

 private:
  struct Part {
    File file;
    int64_t first;  // position of its first token in the stream
    int64_t count;
    int64_t offset;  // of its first token in the file
    int width;       // bytes of a token
  };
  void add(const std::string& path);
  void read_part(const Part& part, int64_t first, std::span<int32_t> tokens) const;

  std::vector<Part> parts_;
  int64_t sequence_;
  int64_t vocabulary_;
  int64_t total_ = 0;
};

// The order of the windows: position p of the run (counted over all epochs) -> window.
class WindowSampler {
 public:
  WindowSampler(int64_t windows, int64_t per_step, bool shuffle, uint64_t seed);
  // Steps that an epoch has: an incomplete last batch is dropped.
  int64_t steps_per_epoch() const { return windows_ / per_step_; }
  int64_t window(int64_t step, int64_t index_in_step) const;

 private:
  int64_t windows_;
  int64_t per_step_;
  bool shuffle_;
  uint64_t seed_;
};

}  // namespace hetmem
