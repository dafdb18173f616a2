#include "io/bpe.h"

#include <algorithm>
#include <limits>
#include <queue>

namespace hetmem {
namespace {

constexpr size_t kShort = 64;  // bytes up to which a scan beats a heap

}  // namespace

Bpe::Bpe(std::vector<std::string> tokens, bool ignore_merges)
    : tokens_(std::move(tokens)), ignore_merges_(ignore_merges) {
  byte_ids_.fill(-1);
  ids_.reserve(tokens_.size());
  for (size_t id = 0; id < tokens_.size(); ++id) {
    if (tokens_[id].empty()) continue;
    ids_.emplace(tokens_[id], static_cast<int32_t>(id));
    if (tokens_[id].size() == 1) {
      byte_ids_.at(static_cast<uint8_t>(tokens_[id][0])) = static_cast<int32_t>(id);
    }
  }
}

void Bpe::add_merge(int32_t left, int32_t right, int32_t made) {
  merges_.insert_or_assign(pair_key(left, right), Merge{next_rank_++, made});
}

int32_t Bpe::find(std::string_view bytes) const {
  const auto found = ids_.find(bytes);
  return found == ids_.end() ? -1 : found->second;
}

const Bpe::Merge* Bpe::merge_of(int32_t left, int32_t right) const {
  const auto found = merges_.find(pair_key(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

void Bpe::encode(std::string_view word, std::vector<int32_t>& ids) const {
  if (ignore_merges_) {
    const int32_t whole = find(word);
    if (whole >= 0) return ids.push_back(whole);
  }
  const size_t begin = ids.size();
  for (const char c : word) {
    const int32_t id = byte_ids_.at(static_cast<uint8_t>(c));
    if (id >= 0) ids.push_back(id);
  }
  if (ids.size() - begin <= kShort) {
    merge_short(ids, begin);
  } else {
    merge_long(ids, begin);
  }
}

// The lowest rank of all pairs, the leftmost of equals, until no pair merges. Ranks are kept and
// only those beside a merge looked up again.
void Bpe::merge_short(std::vector<int32_t>& ids, size_t begin) const {
  constexpr int32_t kNone = std::numeric_limits<int32_t>::max();
  std::array<Merge, kShort> pairs;
  size_t count = ids.size() - begin;
  int32_t* const word = ids.data() + begin;
  const auto look_up = [&](size_t i) {
    const Merge* merge = merge_of(word[i], word[i + 1]);
    pairs.at(i) = merge != nullptr ? *merge : Merge{kNone, -1};
  };
  for (size_t i = 0; i + 1 < count; ++i) look_up(i);
  while (count > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; ++i) {
      if (pairs.at(i).rank < pairs.at(best).rank) best = i;
    }
    if (pairs.at(best).rank == kNone) break;
    word[best] = pairs.at(best).made;
    for (size_t i = best + 1; i + 1 < count; ++i) {
      word[i] = word[i + 1];
      pairs.at(i) = pairs.at(std::min(i + 1, kShort - 1));
    }
    --count;
    if (best + 1 < count) look_up(best);
    if (best > 0) look_up(best - 1);
  }
  ids.resize(begin + count);
}

// The same with a heap over a linked list, for words of any length.
void Bpe::merge_long(std::vector<int32_t>& ids, size_t begin) const {
  struct Symbol {
    int32_t id;
    int32_t previous;
    int32_t next;
  };
  struct Candidate {
    int32_t rank;
    int32_t at;
    int32_t left;
    int32_t right;
    int32_t made;
    bool operator>(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : at > other.at;
    }
  };
  const auto count = static_cast<int32_t>(ids.size() - begin);
  std::vector<Symbol> symbols;
  symbols.reserve(static_cast<size_t>(count));
  for (int32_t i = 0; i < count; ++i) {
    symbols.push_back({ids[begin + static_cast<size_t>(i)], i - 1, i + 1 < count ? i + 1 : -1});
  }
  const auto symbol = [&](int32_t i) -> Symbol& { return symbols[static_cast<size_t>(i)]; };
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> heap;
  const auto push = [&](int32_t at) {
    if (at < 0 || symbol(at).next < 0) return;
    const int32_t right = symbol(symbol(at).next).id;
    if (const Merge* merge = merge_of(symbol(at).id, right)) {
      heap.push({merge->rank, at, symbol(at).id, right, merge->made});
    }
  };
  for (int32_t i = 0; i < count; ++i) push(i);
  while (!heap.empty()) {
    const Candidate top = heap.top();
    heap.pop();
    Symbol& left = symbol(top.at);
    // Stale where either side has merged since: a merged symbol has another id, or -1.
    if (left.id != top.left || left.next < 0 || symbol(left.next).id != top.right) continue;
    Symbol& right = symbol(left.next);
    left.id = top.made;
    right.id = -1;
    left.next = right.next;
    if (left.next >= 0) symbol(left.next).previous = top.at;
    push(left.previous);
    push(top.at);
  }
  ids.resize(begin);
  for (int32_t i = 0; i >= 0; i = symbol(i).next) ids.push_back(symbol(i).id);
}

}  // namespace hetmem
