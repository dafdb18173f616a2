// Byte-pair encoding: bytes of a word -> token ids, merges by rank (Sennrich et al. 2016, on bytes
// as GPT-2 does). Immutable and thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace hetmem {

class Bpe {
 public:
  // `tokens`: raw bytes of each id (empty where the id is none of the model's). `ignore_merges`: a
  // word that is a token is that token, whatever the merges say.
  Bpe(std::vector<std::string> tokens, bool ignore_merges);
  // The next merge in rank: (left, right) -> made. Of two for one pair the later one holds.
  void add_merge(int32_t left, int32_t right, int32_t made);

  // Appends the ids of one word. Bytes without a token of their own are dropped.
  void encode(std::string_view word, std::vector<int32_t>& ids) const;
  const std::vector<std::string>& tokens() const { return tokens_; }
  // -1 where the bytes are no token.
  int32_t find(std::string_view bytes) const;

 private:
  struct Merge {
    int32_t rank;
    int32_t made;
  };
  static uint64_t pair_key(int32_t left, int32_t right) {
    return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) |
           static_cast<uint32_t>(right);
  }
  const Merge* merge_of(int32_t left, int32_t right) const;
  void merge_short(std::vector<int32_t>& ids, size_t begin) const;
  void merge_long(std::vector<int32_t>& ids, size_t begin) const;

  std::vector<std::string> tokens_;
  std::unordered_map<std::string_view, int32_t> ids_;
  std::unordered_map<uint64_t, Merge> merges_;
  std::array<int32_t, 256> byte_ids_{};
  int32_t next_rank_ = 0;
  bool ignore_merges_;
};

}  // namespace hetmem
