#include "io/tokenizer.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <unordered_map>

#include "core/error.h"
#include "io/added_tokens.h"
#include "io/bpe.h"
#include "io/json.h"
#include "io/pre_tokenizer.h"
#include "io/utf8.h"

namespace hetmem {

// The special tokens that a template puts around a text.
struct PromptTemplate {
  std::vector<int32_t> before;
  std::vector<int32_t> after;
};

namespace {

// GPT-2's alphabet: bytes that print stand for themselves, the others for the characters from
// U+0100 on, in order. By character: the byte.
std::unordered_map<int32_t, char> byte_of_character() {
  std::unordered_map<int32_t, char> bytes;
  int32_t next = 256;
  for (int32_t byte = 0; byte < 256; ++byte) {
    const bool prints = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) ||
                        (byte >= 0xAE && byte <= 0xFF);
    bytes[prints ? byte : next++] = static_cast<char>(byte);
  }
  return bytes;
}

// Reads the parts of tokenizer.json; every refusal names the file.
class Reader {
 public:
  explicit Reader(std::string path) : path_(std::move(path)), json_(read_sorted_json_file(path_)) {
    if (!json_.is_object()) refuse("is not a JSON object");
    if (!json_.contains("model") || !json_["model"].is_object()) refuse("has no \"model\"");
    check_model();
  }

  Bpe read_bpe() {
    const SortedJson& model = json_["model"];
    const bool ignore_merges = model.contains("ignore_merges") && model["ignore_merges"] == true;
    Bpe bpe(read_vocabulary(model), ignore_merges);
    if (!model.contains("merges") || !model["merges"].is_array()) refuse("has no list of merges");
    for (const SortedJson& merge : model["merges"]) add_merge(bpe, merge);
    return bpe;
  }

  std::vector<AddedToken> read_added_tokens() const {
    std::vector<AddedToken> tokens;
    if (!json_.contains("added_tokens") || json_["added_tokens"].is_null()) return tokens;
    if (!json_["added_tokens"].is_array()) refuse("\"added_tokens\" is not a list");
    for (const SortedJson& entry : json_["added_tokens"]) {
      if (!entry.is_object() || !entry.contains("content") || !entry["content"].is_string() ||
          !entry.contains("id")) {
        refuse("holds an added token without content and id");
      }
      const auto flag = [&](const char* key) {
        return entry.contains(key) && entry[key].is_boolean() && entry[key].get<bool>();
      };
      tokens.push_back({checked_id(entry["id"]), entry["content"].get<std::string>(),
                        flag("special"), flag("single_word"), flag("lstrip"), flag("rstrip"),
                        flag("normalized")});
    }
    return tokens;
  }

  bool read_normalizer() const {
    return json_.contains("normalizer") && is_nfc(json_["normalizer"]);
  }

  PreTokenizer read_pre_tokenizer() const {
    return {json_.contains("pre_tokenizer") ? json_["pre_tokenizer"] : SortedJson(), path_};
  }

  PromptTemplate read_template() const {
    if (!json_.contains("post_processor")) return {};
    return template_of(json_["post_processor"]);
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    throw Error(ErrorKind::kBadInput, path_ + " " + what);
  }

  // Of a processor or of those in a sequence; most have none.
  PromptTemplate template_of(const SortedJson& processor) const {
    PromptTemplate result;
    if (!processor.is_object() || !processor.contains("type")) return result;
    if (processor["type"] == "Sequence" && processor.contains("processors")) {
      for (const SortedJson& part : processor["processors"]) {
        const PromptTemplate one = template_of(part);
        result.before.insert(result.before.begin(), one.before.begin(), one.before.end());
        result.after.insert(result.after.end(), one.after.begin(), one.after.end());
      }
    }
    if (processor["type"] != "TemplateProcessing" || !processor.contains("single")) return result;
    std::vector<int32_t>* side = &result.before;
    for (const SortedJson& piece : processor["single"]) {
      if (piece.contains("Sequence")) {
        side = &result.after;
      } else {
        for (const int32_t id : special_ids(processor, piece)) side->push_back(id);
      }
    }
    return result;
  }

  std::vector<int32_t> special_ids(const SortedJson& processor, const SortedJson& piece) const {
    try {
      const auto name = piece.at("SpecialToken").at("id").get<std::string>();
      std::vector<int32_t> ids;
      for (const SortedJson& id : processor.at("special_tokens").at(name).at("ids")) {
        ids.push_back(checked_id(id));
      }
      return ids;
    } catch (const nlohmann::json::exception&) {
      refuse("has a template with a broken piece: " + piece.dump());
    }
  }

  void check_model() const {
    const SortedJson& model = json_["model"];
    if (model.contains("type") && model["type"] != "BPE") {
      refuse("holds a model of type " + model["type"].dump() + "; only BPE is implemented");
    }
    for (const char* key : {"byte_fallback", "fuse_unk"}) {
      if (model.contains(key) && model[key] == true) {
        refuse(std::string("sets ") + key + ", which is not implemented");
      }
    }
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      if (model.contains(key) && !model[key].is_null() &&
          !(model[key].is_string() && model[key].get_ref<const std::string&>().empty())) {
        refuse(std::string("sets ") + key + ", which is not implemented");
      }
    }
    if (model.contains("dropout") && !model["dropout"].is_null() && model["dropout"] != 0.0) {
      refuse("sets a dropout of merges, which is not implemented");
    }
  }

  int32_t checked_id(const SortedJson& id) const {
    constexpr int64_t kMost = int64_t{1} << 24;
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= kMost) {
      refuse("holds the token id " + id.dump() + "; ids are whole numbers below 2^24");
    }
    return id.get<int32_t>();
  }

  std::vector<std::string> read_vocabulary(const SortedJson& model) {
    if (!model.contains("vocab") || !model["vocab"].is_object()) refuse("has no \"vocab\"");
    std::vector<std::string> tokens;
    for (const auto& [text, id] : model["vocab"].items()) {
      const auto index = static_cast<size_t>(checked_id(id));
      if (index >= tokens.size()) tokens.resize(index + 1);
      if (!tokens[index].empty()) refuse("gives the token id " + id.dump() + " twice");
      tokens[index] = raw_bytes(text);
    }
    return tokens;
  }

  // Characters outside of the byte alphabet (in added tokens) stay as they are.
  std::string raw_bytes(const std::string& text) const {
    std::string bytes;
    for (size_t at = 0; at < text.size();) {
      const Utf8Character character = decode_utf8(std::string_view(text).substr(at));
      const auto found = alphabet_.find(character.code);
      if (found == alphabet_.end()) return text;
      bytes += found->second;
      at += static_cast<size_t>(character.length);
    }
    return bytes;
  }

  void add_merge(Bpe& bpe, const SortedJson& merge) const {
    std::string left;
    std::string right;
    if (merge.is_string()) {
      const auto text = merge.get<std::string>();
      const size_t space = text.find(' ');
      if (space == std::string::npos) refuse("holds the merge \"" + text + "\" without two parts");
      left = text.substr(0, space);
      right = text.substr(space + 1);
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
               merge[1].is_string()) {
      left = merge[0].get<std::string>();
      right = merge[1].get<std::string>();
    } else {
      refuse("holds a merge that is neither \"a b\" nor [a, b]: " + merge.dump());
    }
    const std::string left_bytes = raw_bytes(left);
    const std::string right_bytes = raw_bytes(right);
    const int32_t left_id = bpe.find(left_bytes);
    const int32_t right_id = bpe.find(right_bytes);
    const int32_t made = bpe.find(left_bytes + right_bytes);
    if (left_id < 0 || right_id < 0 || made < 0) {
      refuse("merges \"" + left + "\" and \"" + right + "\", which are not all in the vocabulary");
    }
    bpe.add_merge(left_id, right_id, made);
  }

  bool is_nfc(const SortedJson& normalizer) const {
    if (normalizer.is_null()) return false;
    const SortedJson type =
        normalizer.is_object() && normalizer.contains("type") ? normalizer["type"] : SortedJson();
    if (type == "NFC") return true;
    if (type == "Sequence" && normalizer.contains("normalizers") &&
        normalizer["normalizers"].is_array()) {
      bool any = false;
      for (const SortedJson& part : normalizer["normalizers"]) any = is_nfc(part) || any;
      return any;
    }
    refuse("has the normalizer " + type.dump() + "; only NFC is implemented");
  }

  std::string path_;
  SortedJson json_;
  std::unordered_map<int32_t, char> alphabet_ = byte_of_character();
};

std::vector<AddedToken> with_normalized(std::vector<AddedToken> tokens, bool normalized,
                                        bool nfc_on) {
  std::erase_if(tokens, [=](const AddedToken& token) { return token.normalized != normalized; });
  if (normalized && nfc_on) {
    for (AddedToken& token : tokens) token.content = nfc(token.content);
  }
  return tokens;
}

// Every character below U+0300 is its own normal form.
bool may_need_nfc(std::string_view text) {
  return std::any_of(text.begin(), text.end(),
                     [](char c) { return static_cast<uint8_t>(c) >= 0xCC; });
}

}  // namespace

struct Tokenizer::State {
  explicit State(Reader reader)
      : bpe(reader.read_bpe()),
        added(reader.read_added_tokens()),
        nfc_on(reader.read_normalizer()),
        pre_tokenizer(reader.read_pre_tokenizer()),
        prompt_template(reader.read_template()),
        raw_matcher(with_normalized(added, false, nfc_on)),
        normalized_matcher(with_normalized(added, true, nfc_on)) {
    vocabulary = static_cast<int64_t>(bpe.tokens().size());
    for (const AddedToken& token : added) {
      vocabulary = std::max<int64_t>(vocabulary, token.id + 1);
      added_by_id[token.id] = &token;
      added_by_content[token.content] = token.id;
    }
  }

  Bpe bpe;
  std::vector<AddedToken> added;
  bool nfc_on;
  PreTokenizer pre_tokenizer;
  PromptTemplate prompt_template;
  AddedTokenMatcher raw_matcher;
  AddedTokenMatcher normalized_matcher;
  int64_t vocabulary = 0;
  std::unordered_map<int32_t, const AddedToken*> added_by_id;
  std::unordered_map<std::string_view, int32_t> added_by_content;
};

Tokenizer::Tokenizer(std::unique_ptr<const State> state) : state_(std::move(state)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::load(const std::string& folder) {
  return Tokenizer(std::make_unique<const State>(Reader(folder + "/tokenizer.json")));
}

std::vector<int32_t> Tokenizer::encode(std::string_view text) const {
  std::vector<int32_t> ids;
  Encoder(*this).encode(text, ids);
  return ids;
}

std::vector<int32_t> Tokenizer::encode_prompt(std::string_view text) const {
  const PromptTemplate& around = state_->prompt_template;
  std::vector<int32_t> ids = around.before;
  Encoder(*this).encode(text, ids);
  ids.insert(ids.end(), around.after.begin(), around.after.end());
  return ids;
}

std::string_view Tokenizer::bytes_of(int32_t id) const {
  const auto found = state_->added_by_id.find(id);
  if (found != state_->added_by_id.end()) return found->second->content;
  const std::vector<std::string>& tokens = state_->bpe.tokens();
  if (id < 0 || static_cast<size_t>(id) >= tokens.size()) return {};
  return tokens[static_cast<size_t>(id)];
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  std::string text;
  for (const int32_t id : ids) {
    if (!skip_special || !is_special(id)) text += bytes_of(id);
  }
  return text;
}

std::optional<int32_t> Tokenizer::id_of(std::string_view token) const {
  const auto found = state_->added_by_content.find(token);
  if (found != state_->added_by_content.end()) return found->second;
  const int32_t id = state_->bpe.find(token);
  return id < 0 ? std::nullopt : std::optional(id);
}

bool Tokenizer::is_special(int32_t id) const {
  const auto found = state_->added_by_id.find(id);
  return found != state_->added_by_id.end() && found->second->special;
}

int64_t Tokenizer::vocabulary() const { return state_->vocabulary; }

int32_t Tokenizer::end_of_text(const std::vector<int64_t>& eos_token_ids) const {
  for (const char* name : {"<|endoftext|>", "<|end_of_text|>"}) {
    if (const auto id = id_of(name)) return *id;
  }
  if (eos_token_ids.empty()) {
    throw Error(ErrorKind::kBadInput,
                "the tokenizer has no <|endoftext|> and config.json no eos_token_id, so documents "
                "cannot be told apart; add one of them");
  }
  return static_cast<int32_t>(eos_token_ids.front());
}

struct Encoder::State {
  // Words seen lately, each in the one place that its hash names.
  struct Word {
    static constexpr size_t kMostBytes = 31;
    static constexpr size_t kMostIds = 7;
    std::array<char, kMostBytes> bytes;
    uint8_t length = 0;
    std::array<int32_t, kMostIds> ids;
    int32_t count = 0;
  };
  static constexpr size_t kWords = size_t{1} << 14;

  explicit State(const Tokenizer::State& given)
      : tokenizer(given), splitter(given.pre_tokenizer), words(kWords) {}

  void encode_word(std::string_view word, std::vector<int32_t>& ids);
  void encode_text(std::string_view text, std::vector<int32_t>& ids);
  void encode_normalized(std::string_view text, std::vector<int32_t>& ids);

  const Tokenizer::State& tokenizer;
  Splitter splitter;
  std::vector<Word> words;
  std::vector<AddedTokenMatcher::Piece> raw_pieces;
  std::vector<AddedTokenMatcher::Piece> pieces;
};

void Encoder::State::encode_word(std::string_view word, std::vector<int32_t>& ids) {
  if (word.size() > Word::kMostBytes) return tokenizer.bpe.encode(word, ids);
  Word& seen = words[XXH3_64bits(word.data(), word.size()) % kWords];
  if (seen.length == word.size() && std::memcmp(seen.bytes.data(), word.data(), word.size()) == 0) {
    ids.insert(ids.end(), seen.ids.begin(), seen.ids.begin() + seen.count);
    return;
  }
  const size_t begin = ids.size();
  tokenizer.bpe.encode(word, ids);
  const size_t count = ids.size() - begin;
  if (count > Word::kMostIds) return;
  seen.length = static_cast<uint8_t>(word.size());
  std::copy(word.begin(), word.end(), seen.bytes.begin());
  seen.count = static_cast<int32_t>(count);
  std::copy(ids.begin() + static_cast<int64_t>(begin), ids.end(), seen.ids.begin());
}

void Encoder::State::encode_normalized(std::string_view text, std::vector<int32_t>& ids) {
  pieces.clear();
  tokenizer.normalized_matcher.split(text, pieces);
  for (const AddedTokenMatcher::Piece& piece : pieces) {
    if (piece.id >= 0) {
      ids.push_back(piece.id);
    } else {
      for (const std::string_view word : splitter.split(piece.text)) encode_word(word, ids);
    }
  }
}

void Encoder::State::encode_text(std::string_view text, std::vector<int32_t>& ids) {
  raw_pieces.clear();
  tokenizer.raw_matcher.split(text, raw_pieces);
  for (const AddedTokenMatcher::Piece& piece : raw_pieces) {
    if (piece.id >= 0) {
      ids.push_back(piece.id);
    } else if (tokenizer.nfc_on && may_need_nfc(piece.text)) {
      encode_normalized(nfc(piece.text), ids);
    } else {
      encode_normalized(piece.text, ids);
    }
  }
}

Encoder::Encoder(const Tokenizer& tokenizer) : state_(std::make_unique<State>(*tokenizer.state_)) {}
Encoder::~Encoder() = default;

void Encoder::encode(std::string_view text, std::vector<int32_t>& ids) {
  if (is_valid_utf8(text)) {
    state_->encode_text(text, ids);
  } else {
    state_->encode_text(repaired_utf8(text), ids);
  }
}

std::string StreamDecoder::next(int32_t id) {
  if (tokenizer_.is_special(id)) return {};
  pending_ += tokenizer_.bytes_of(id);
  const auto ready = pending_.size() - static_cast<size_t>(incomplete_utf8_tail(pending_));
  std::string text = repaired_utf8(std::string_view(pending_).substr(0, ready));
  pending_.erase(0, ready);
  return text;
}

std::string StreamDecoder::finish() {
  std::string text = repaired_utf8(pending_);
  pending_.clear();
  return text;
}

}  // namespace hetmem
