#include "io/json.h"

#include <set>
#include <vector>

#include "core/error.h"
#include "io/file.h"

namespace hetmem {
namespace {

// Follows the parser and refuses what it would let pass.
class Guard {
 public:
  Guard(const JsonLimits& limits, const std::string& source) : limits_(limits), source_(source) {}

  bool operator()(int, Json::parse_event_t event, Json& parsed) {
    switch (event) {
      case Json::parse_event_t::object_start:
      case Json::parse_event_t::array_start:
        keys_.emplace_back();
        if (static_cast<int>(keys_.size()) > limits_.depth) {
          refuse("is nested deeper than " + std::to_string(limits_.depth) + " levels");
        }
        break;
      case Json::parse_event_t::object_end:
      case Json::parse_event_t::array_end:
        keys_.pop_back();
        break;
      case Json::parse_event_t::key:
        if (!keys_.back().insert(parsed.get<std::string>()).second) {
          refuse("holds the key \"" + parsed.get<std::string>() + "\" twice");
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
  std::vector<std::set<std::string>> keys_;  // one entry an open object or array
};

}  // namespace

Json parse_json(std::string_view text, const std::string& source, const JsonLimits& limits) {
  if (text.size() > limits.bytes) {
    throw Error(ErrorKind::kBadInput,
                source + " is larger than " + std::to_string(limits.bytes) + " bytes");
  }
  try {
    return Json::parse(text.begin(), text.end(), Guard(limits, source));
  } catch (const nlohmann::json::exception& error) {
    throw Error(ErrorKind::kBadInput, source + " is not valid JSON: " + error.what());
  }
}

Json read_json_file(const std::string& path, const JsonLimits& limits) {
  return parse_json(read_text_file(path), path, limits);
}

}  // namespace hetmem
