// The tokenizer by hand-made vocabularies (equality with Hugging Face's is in tests/python), and
// broken files.
#include "io/tokenizer.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "../fuzz/targets.h"
#include "core/error.h"

namespace hetmem {
namespace {

using Json = nlohmann::ordered_json;

// How byte-level BPE writes a byte as a character (Radford et al. 2019): printable ones as
// themselves, the rest as U+0100 onwards.
std::string visible(unsigned char byte) {
  int code = byte;
  const auto printable = [](int b) {
    return (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
  };
  if (!printable(byte)) {
    code = 0x100;
    for (int b = 0; b < byte; ++b) code += printable(b) ? 0 : 1;
  }
  if (code < 0x80) return {static_cast<char>(code)};
  return {static_cast<char>(0xc0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3f))};
}

// 256 bytes with the ids of their values, then a few merges, then a special token.
Json small_tokenizer() {
  Json vocabulary = Json::object();
  for (int b = 0; b < 256; ++b) vocabulary[visible(static_cast<unsigned char>(b))] = b;
  const std::string space = visible(' ');
  Json merges = Json::array();
  int next = 256;
  const auto merge = [&](const std::string& left, const std::string& right) {
    merges.push_back(left + " " + right);
    vocabulary[left + right] = next++;
  };
  merge("h", "e");        // 256
  merge("l", "l");        // 257
  merge("he", "ll");      // 258
  merge("hell", "o");     // 259
  merge(space, "hello");  // 260
  const Json special{
      {"id", 261},       {"content", "<|endoftext|>"}, {"special", true},    {"lstrip", false},
      {"rstrip", false}, {"single_word", false},       {"normalized", false}};
  return {
      {"added_tokens", {special}},
      {"normalizer", nullptr},
      {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
      {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", merges}}}};
}

class TokenizerFile : public testing::Test {
 protected:
  TokenizerFile()
      : folder_(std::filesystem::temp_directory_path() /
                ("hetmem-tokenizer-" + std::to_string(getpid()))) {
    std::filesystem::create_directories(folder_);
  }
  ~TokenizerFile() override { std::filesystem::remove_all(folder_); }
  Tokenizer load(const Json& json) const {
    std::ofstream(folder_ / "tokenizer.json") << json.dump();
    return Tokenizer::load(folder_.string());
  }

  std::filesystem::path folder_;
};

using Ids = std::vector<int32_t>;

TEST_F(TokenizerFile, MergesByRank) {
  const Tokenizer tokenizer = load(small_tokenizer());
  EXPECT_EQ(tokenizer.vocabulary(), 262);
  EXPECT_EQ(tokenizer.encode("hello hello"), (Ids{259, 260}));
  EXPECT_EQ(tokenizer.encode("hell hel"), (Ids{258, ' ', 256, 'l'}));
  EXPECT_EQ(tokenizer.encode("lll"), (Ids{257, 'l'}));
  EXPECT_EQ(tokenizer.encode("a<|endoftext|>hello"), (Ids{'a', 261, 259}));
  EXPECT_EQ(tokenizer.encode(""), Ids{});
  EXPECT_EQ(tokenizer.end_of_text({}), 261);
  EXPECT_TRUE(tokenizer.is_special(261));
  EXPECT_FALSE(tokenizer.is_special(260));
}

TEST_F(TokenizerFile, GivesBackEveryUtf8Text) {
  const Tokenizer tokenizer = load(small_tokenizer());
  for (const std::string text :
       {"h\xc3\xa9llo w\xc3\xb6rld", "\xe4\xbd\xa0\xe5\xa5\xbd \xf0\x9f\x98\x80\n\t ",
        "  hello   hello\r\n"}) {
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
  }
  // What is no UTF-8 comes back as U+FFFD, one for each longest broken piece.
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("a\xff\xe4\xbd b")), "a\xef\xbf\xbd\xef\xbf\xbd b");
}

TEST_F(TokenizerFile, StreamsWholeCharacters) {
  const Tokenizer tokenizer = load(small_tokenizer());
  StreamDecoder decoder(tokenizer);
  EXPECT_EQ(decoder.next(259), "hello");
  EXPECT_EQ(decoder.next(0xf0), "");
  EXPECT_EQ(decoder.next(0x9f), "");
  EXPECT_EQ(decoder.next(0x98), "");
  EXPECT_EQ(decoder.next(0x80), "\xf0\x9f\x98\x80");
  EXPECT_EQ(decoder.next(261), "") << "special tokens show nothing";
  EXPECT_EQ(decoder.next(0xe4), "");
  EXPECT_EQ(decoder.finish(), "\xef\xbf\xbd");
}

TEST_F(TokenizerFile, RefusesWhatItDoesNotImplement) {
  const auto expect_refused = [&](const char* path, const Json& value, const char* word) {
    Json json = small_tokenizer();
    json[Json::json_pointer(path)] = value;
    try {
      load(json);
      ADD_FAILURE() << path;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kBadInput);
      EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << error.what();
    }
  };
  expect_refused("/model/type", "Unigram", "Unigram");
  expect_refused("/model/byte_fallback", true, "byte_fallback");
  expect_refused("/model/dropout", 0.1, "dropout");
  expect_refused("/pre_tokenizer/type", "Metaspace", "Metaspace");
  expect_refused("/normalizer", {{"type", "Lowercase"}}, "Lowercase");
  expect_refused("/model/merges/0", "h q", "merge");
}

TEST_F(TokenizerFile, MutationsAreUsedOrRefused) {
  const std::string good = small_tokenizer().dump();
  ASSERT_TRUE(fuzz::use_tokenizer(good, "hello"));
  std::mt19937 random(6);
  int refused = 0;
  constexpr int kRounds = 1500;
  for (int round = 0; round < kRounds; ++round) {
    std::string mutant = good;
    const int flips = 1 + static_cast<int>(random() % 3);
    for (int i = 0; i < flips; ++i) {
      // Most of the file is the vocabulary: every other flip is in what follows it.
      const size_t from = i % 2 == 0 ? 0 : good.find("\"merges\"");
      mutant[from + random() % (mutant.size() - from)] = static_cast<char>(random());
    }
    if (round % 5 == 0) mutant.resize(random() % mutant.size());
    if (!fuzz::use_tokenizer(mutant, "hello \xff h\xc3\xa9 <|endoftext|>")) ++refused;
  }
  EXPECT_GT(refused, kRounds / 4);
  EXPECT_LT(refused, kRounds);
}

}  // namespace
}  // namespace hetmem
