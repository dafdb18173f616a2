// The one way JSON comes in: with a cap on size and depth, duplicate keys refused, and errors that
// name the file. Stateless and thread-safe.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace hetmem {

using Json = nlohmann::ordered_json;
// The same with keys sorted: for objects of very many keys, which an ordered one finds by search.
using SortedJson = nlohmann::json;

struct JsonLimits {
  size_t bytes = size_t{1} << 30;
  int depth = 64;
};

// Throws Error (kBadInput): "SOURCE: ...".
Json parse_json(std::string_view text, const std::string& source, const JsonLimits& limits = {});
// The same for the content of a file.
Json read_json_file(const std::string& path, const JsonLimits& limits = {});
SortedJson read_sorted_json_file(const std::string& path, const JsonLimits& limits = {});

}  // namespace hetmem
