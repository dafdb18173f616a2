#include "io/token_dataset.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "core/error.h"
#include "core/philox.h"
#include "io/checksum.h"

namespace hetmem {
namespace {

constexpr int32_t kMagic16 = 20240520;  // llm.c: version 1, uint16 tokens
constexpr int32_t kMagic32 = 20240801;  // llm.c: version 7, uint32 tokens
// LLMQ: the text, then int32 version, bytes of a token, tokens, vocabulary, whether masks follow.
constexpr std::array<char, 8> kMagicLlmq{'B', 'I', 'N', '.', 'T', 'O', 'K', '\n'};

[[noreturn]] void refuse(const std::string& path, const std::string& what) {
  throw Error(ErrorKind::kBadInput, path + " " + what);
}

struct Layout {
  int width = 0;  // bytes of a token
  int64_t count = 0;
  bool masks = false;  // a bit for each token follows the tokens
};

using Header = std::array<int32_t, kTokenHeaderBytes / 4>;

Layout layout_of(const Header& header, const std::string& path) {
  const auto unsigned_count = [](int32_t value) {
    return static_cast<int64_t>(static_cast<uint32_t>(value));
  };
  if (header[0] == kMagic16 && header[1] == 1) return {2, unsigned_count(header[2])};
  if (header[0] == kMagic32 && header[1] == 7) return {4, unsigned_count(header[2])};
  if (std::memcmp(header.data(), kMagicLlmq.data(), kMagicLlmq.size()) == 0) {
    if (header[3] != 4) refuse(path, "holds LLMQ tokens that are not of 4 bytes");
    return {4, unsigned_count(header[4]), header[6] != 0};
  }
  refuse(path, "is not a token file that hetmem reads (layouts of llm.c and LLMQ)");
}

}  // namespace

std::vector<int32_t> token_file_header(bool wide, int64_t tokens) {
  std::vector<int32_t> header(kTokenHeaderBytes / 4, 0);
  header[0] = wide ? kMagic32 : kMagic16;
  header[1] = wide ? 7 : 1;
  header[2] = static_cast<int32_t>(tokens);
  return header;
}

TokenDataset::TokenDataset(const std::vector<std::string>& paths, int64_t sequence,
                           int64_t vocabulary)
    : sequence_(sequence), vocabulary_(vocabulary) {
  for (const std::string& path : paths) add(path);
  if (total_ < sequence + 1) {
    throw Error(ErrorKind::kBadInput, "the data holds " + std::to_string(total_) +
                                          " tokens, a window needs " +
                                          std::to_string(sequence + 1) + "; give more data" +
                                          (sequence > 1 ? " or a shorter --sequence-length" : ""));
  }
}

void TokenDataset::add(const std::string& path) {
  File file = File::open_for_reading(path);
  const int64_t size = file.size();
  Header header{};
  if (size < kTokenHeaderBytes) refuse(path, "is too short to be a token file");
  file.read(0, header.data(), kTokenHeaderBytes);
  const Layout layout = layout_of(header, path);
  const int64_t masks = layout.masks ? (layout.count + 7) / 8 : 0;
  if (size != kTokenHeaderBytes + layout.count * layout.width + masks) {
    refuse(path, "says that it holds " + std::to_string(layout.count) +
                     " tokens, its size is that of " +
                     std::to_string((size - kTokenHeaderBytes) / layout.width) +
                     "; it is truncated or damaged");
  }
  parts_.push_back({std::move(file), total_, layout.count, kTokenHeaderBytes, layout.width});
  total_ += layout.count;
}

void TokenDataset::read_part(const Part& part, int64_t first, std::span<int32_t> tokens) const {
  const auto count = static_cast<int64_t>(tokens.size());
  if (part.width == 4) {
    part.file.read(part.offset + first * 4, tokens.data(), count * 4);
  } else {
    std::vector<uint16_t> narrow(tokens.size());
    part.file.read(part.offset + first * 2, narrow.data(), count * 2);
    std::copy(narrow.begin(), narrow.end(), tokens.begin());
  }
  for (int64_t i = 0; i < count; ++i) {
    const int32_t id = tokens[static_cast<size_t>(i)];
    if (id >= 0 && id < vocabulary_) continue;
    refuse(part.file.path(), "holds token id " + std::to_string(static_cast<uint32_t>(id)) +
                                 " at position " + std::to_string(first + i) +
                                 ", the model's vocabulary has " + std::to_string(vocabulary_) +
                                 "; was it made with another tokenizer?");
  }
}

void TokenDataset::read_window(int64_t index, std::span<int32_t> window) const {
  HETMEM_ASSERT(index >= 0 && index < windows() &&
                static_cast<int64_t>(window.size()) == sequence_ + 1);
  read(index * sequence_, window);
}

void TokenDataset::read(int64_t first, std::span<int32_t> tokens) const {
  HETMEM_ASSERT(first >= 0 && first + static_cast<int64_t>(tokens.size()) <= total_);
  int64_t at = first;
  size_t filled = 0;
  for (const Part& part : parts_) {
    if (filled == tokens.size()) break;
    if (at >= part.first + part.count) continue;
    const int64_t in_part = at - part.first;
    const auto now = static_cast<size_t>(
        std::min<int64_t>(part.count - in_part, static_cast<int64_t>(tokens.size() - filled)));
    read_part(part, in_part, tokens.subspan(filled, now));
    filled += now;
    at += static_cast<int64_t>(now);
  }
}

DataIdentity TokenDataset::check_ids(int64_t most) const {
  Checksum sum;
  constexpr int64_t kPiece = int64_t{1} << 20;
  std::vector<int32_t> tokens;
  const int64_t end = std::min(most, total_);
  for (int64_t at = 0; at < end; at += kPiece) {
    tokens.resize(static_cast<size_t>(std::min(kPiece, end - at)));
    read(at, tokens);
    sum.update(tokens.data(), static_cast<int64_t>(tokens.size() * sizeof(int32_t)));
  }
  return {total_, sum.text()};
}

WindowSampler::WindowSampler(int64_t windows, int64_t per_step, bool shuffle, uint64_t seed)
    : windows_(windows), per_step_(per_step), shuffle_(shuffle), seed_(seed) {
  if (windows < per_step) {
    throw Error(ErrorKind::kBadInput, "the data has " + std::to_string(windows) +
                                          " windows, a step takes " + std::to_string(per_step) +
                                          "; give more --data, or a smaller --batch-size, "
                                          "--gradient-accumulation-steps or --sequence-length");
  }
}

int64_t WindowSampler::window(int64_t step, int64_t index_in_step) const {
  const int64_t epoch = step / steps_per_epoch();
  const int64_t position = step % steps_per_epoch() * per_step_ + index_in_step;
  if (!shuffle_) return position;
  return static_cast<int64_t>(permute(seed_, static_cast<uint64_t>(epoch),
                                      static_cast<uint64_t>(windows_),
                                      static_cast<uint64_t>(position)));
}

}  // namespace hetmem
