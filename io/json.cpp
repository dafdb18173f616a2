#include "io/json.h"

#include <unordered_set>
#include <vector>

#include "core/error.h"
#include "io/file.h"

namespace hetmem {
namespace {

// Follows the parser and refuses what it would let pass.
template <typename AnyJson>
class Guard {
 public:
  Guard(const JsonLimits& limits, const std::string& source) : limits_(limits), source_(source) {}

  bool operator()(int, typename AnyJson::parse_event_t event, AnyJson& parsed) {
    using Event = typename AnyJson::parse_event_t;
    switch (event) {
      case Event::object_start:
      case Event::array_start:
        keys_.emplace_back();
        if (static_cast<int>(keys_.size()) > limits_.depth) {
          refuse("is nested deeper than " + std::to_string(limits_.depth) + " levels");
        }
        break;
      case Event::object_end:
      case Event::array_end:
        keys_.pop_back();
        break;
      case Event::key:
        if (!keys_.back().insert(parsed.template get<std::string>()).second) {
          refuse("holds the key \"" + parsed.template get<std::string>() + "\" twice");
        }
        break;
      default:
        break;
    }
    return true;
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    throw Error(ErrorKind::kBadInput, source_ + " " + what);
  }

  const JsonLimits& limits_;
  const std::string& source_;
  std::vector<std::unordered_set<std::string>> keys_;  // one entry an open object or array
};

template <typename AnyJson>
AnyJson parse(std::string_view text, const std::string& source, const JsonLimits& limits) {
  if (text.size() > limits.bytes) {
    throw Error(ErrorKind::kBadInput,
                source + " is larger than " + std::to_string(limits.bytes) + " bytes");
  }
  try {
    return AnyJson::parse(text.begin(), text.end(), Guard<AnyJson>(limits, source));
  } catch (const nlohmann::json::exception& error) {
    throw Error(ErrorKind::kBadInput, source + " is not valid JSON: " + error.what());
  }
}

}  // namespace

Json parse_json(std::string_view text, const std::string& source, const JsonLimits& limits) {
  return parse<Json>(text, source, limits);
}

Json read_json_file(const std::string& path, const JsonLimits& limits) {
  return parse<Json>(read_text_file(path), path, limits);
}

SortedJson read_sorted_json_file(const std::string& path, const JsonLimits& limits) {
  return parse<SortedJson>(read_text_file(path), path, limits);
}

}  // namespace hetmem
