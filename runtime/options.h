// Tables of options: what a sub-command can be told, as rows that the command line, configuration
// files and Python read (names, defaults, help, validation). A row reads and writes one member of a
// configuration struct; the functions of namespace options make rows. Values; thread-safe.
//
//   struct Config { std::string model; int64_t threads = 0; };
//   std::vector<OptionOf<Config>> table{
//       options::text<Config>({"model", "Model", "DIR", "", "folder (required)"}, &Config::model),
//       options::integer<Config>({"threads", "Machine", "N", "all", ""}, &Config::threads, 1)};
//   Config config = resolve_options(table, values);
#pragma once

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/byte_size.h"
#include "core/error.h"

namespace hetmem {

constexpr int64_t kAutoBytes = -1;

// What a command line has to know of an option.
struct OptionHelp {
  std::string name;      // "learning-rate"
  std::string group;     // heading of the help
  std::string value;     // what the value looks like ("SIZE", "N"); empty for a switch
  std::string fallback;  // the default, as help shows it
  std::string help;
  bool many = false;        // takes several values
  bool joins = false;       // given twice, both count
  bool train_only = false;  // nothing that `plan` looks at
};

// `set` throws Error (kBadInput) naming the flag; `get` gives back the text that `set` would take.
template <typename Config>
struct OptionOf : OptionHelp {
  std::function<void(Config&, const std::vector<std::string>&)> set;
  std::function<std::vector<std::string>(const Config&)> get;
};

using OptionValues = std::map<std::string, std::vector<std::string>>;

// The keys and values of a YAML file of options, or of such text, which messages call `source`. One
// of `names` without a value is as if it were not there; other keys are among them, for the reader
// to refuse. Throws Error (kBadInput).
OptionValues read_config_file(const std::string& path, const std::vector<std::string>& names);
OptionValues read_config_text(const std::string& yaml, const std::string& source,
                              const std::vector<std::string>& names);
// "learning_rate" -> "learning-rate"
std::string canonical_option(std::string name);

// Letters of ASCII alone: options and their values have no others.
std::string lower_case(std::string text);
// That of the names which is spelled most like one that is none of them; empty: none is like it.
std::string nearest_name(const std::string& name, const std::vector<std::string>& names);

template <typename Config>
const OptionOf<Config>* find_option(const std::vector<OptionOf<Config>>& table,
                                    const std::string& name) {
  const auto found = std::find_if(table.begin(), table.end(), [&](const OptionOf<Config>& option) {
    return option.name == name;
  });
  return found == table.end() ? nullptr : &*found;
}

template <typename Config>
std::vector<std::string> names_of(const std::vector<OptionOf<Config>>& table) {
  std::vector<std::string> names;
  for (const OptionOf<Config>& option : table) names.push_back(option.name);
  return names;
}

// Throws Error (kBadInput) that names the option which is meant, where one is like it.
[[noreturn]] void refuse_unknown_option(const std::string& name,
                                        const std::vector<std::string>& names);
template <typename Config>
[[noreturn]] void refuse_unknown_option(const std::string& name,
                                        const std::vector<OptionOf<Config>>& table) {
  refuse_unknown_option(name, names_of(table));
}

// Applies named values over the defaults. Throws Error (kBadInput) that names the flag.
template <typename Config>
Config resolve_options(const std::vector<OptionOf<Config>>& table, const OptionValues& values) {
  Config config;
  for (const auto& [given, texts] : values) {
    const OptionOf<Config>* option = find_option(table, canonical_option(given));
    if (option == nullptr) refuse_unknown_option(given, table);
    option->set(config, texts);
  }
  return config;
}

namespace options {

using Values = std::vector<std::string>;

[[noreturn]] void refuse(const std::string& name, const std::string& value,
                         const std::string& expected);
const std::string& single(const std::string& name, const Values& values);

template <typename Number>
std::string number_text(Number number) {
  char text[40];
  const auto [end, code] = std::to_chars(text, text + sizeof(text), number);
  return {text, end};
}

template <typename Number>
Number parse_number(const std::string& name, const std::string& text, Number least, Number most,
                    const std::string& expected) {
  Number number{};
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), number);
  if constexpr (std::is_integral_v<Number>) {
    const bool past = code == std::errc::result_out_of_range && text.front() != '-';
    if (end == text.data() + text.size() && (past || (code == std::errc() && number > most))) {
      refuse(name, text, "at most " + number_text(most));
    }
  }
  if (code != std::errc() || end != text.data() + text.size() || !(number >= least) ||
      !(number <= most)) {
    refuse(name, text, expected);
  }
  return number;
}

// What a row says apart from how it reads and writes its member.
struct Head {
  const char* name;
  const char* group;
  const char* value;
  const char* fallback;
  const char* help;
  bool train_only = false;
};

template <typename Config>
OptionOf<Config> row(const Head& head) {
  OptionOf<Config> option;
  option.name = head.name;
  option.group = head.group;
  option.value = head.value;
  option.fallback = head.fallback;
  option.help = head.help;
  option.train_only = head.train_only;
  return option;
}

template <typename Config>
OptionOf<Config> text(const Head& head, std::string Config::*member) {
  OptionOf<Config> option = row<Config>(head);
  option.set = [name = option.name, member](Config& config, const Values& values) {
    config.*member = single(name, values);
  };
  option.get = [member](const Config& config) { return Values{config.*member}; };
  return option;
}

template <typename Config>
OptionOf<Config> paths(const Head& head, std::vector<std::string> Config::*member) {
  OptionOf<Config> option = row<Config>(head);
  option.many = true;
  option.set = [member](Config& config, const Values& values) { config.*member = values; };
  option.get = [member](const Config& config) { return config.*member; };
  return option;
}

template <typename Config>
OptionOf<Config> boolean(const Head& head, bool Config::*member) {
  OptionOf<Config> option = row<Config>(head);
  option.set = [name = option.name, member](Config& config, const Values& values) {
    const std::string value = values.empty() ? "true" : single(name, values);
    if (value != "true" && value != "false") refuse(name, value, "true or false");
    config.*member = value == "true";
  };
  option.get = [member](const Config& config) { return Values{config.*member ? "true" : "false"}; };
  return option;
}

template <typename Config, typename Integer>
OptionOf<Config> integer(const Head& head, Integer Config::*member,
                         std::type_identity_t<Integer> least) {
  OptionOf<Config> option = row<Config>(head);
  // Counts are multiplied with each other; seeds are not.
  constexpr Integer kMost =
      std::is_signed_v<Integer> ? Integer{1} << 40 : std::numeric_limits<Integer>::max();
  option.set = [name = option.name, member, least](Config& config, const Values& values) {
    config.*member = parse_number<Integer>(name, single(name, values), least, kMost,
                                           "a whole number of at least " + std::to_string(least));
  };
  // Below the least that a user may give stands for "as the default has it".
  option.get = [member, least](const Config& config) {
    return config.*member < least ? Values{} : Values{number_text(config.*member)};
  };
  return option;
}

struct RealRange {
  double least;
  double most;
  const char* expected;
};
inline constexpr RealRange kAnyPositive{0, 1e300, "a number from 0 to 1e300"};
inline constexpr RealRange kBelowOne{0, 0x1.fffffffffffffp-1, "a number from 0 to below 1"};
inline constexpr RealRange kRatio{0, 1, "a number from 0 to 1"};

template <typename Config>
OptionOf<Config> real(const Head& head, double Config::*member, RealRange range) {
  OptionOf<Config> option = row<Config>(head);
  option.set = [name = option.name, member, range](Config& config, const Values& values) {
    config.*member =
        parse_number<double>(name, single(name, values), range.least, range.most, range.expected);
  };
  option.get = [member](const Config& config) { return Values{number_text(config.*member)}; };
  return option;
}

template <typename Config>
OptionOf<Config> bytes(const Head& head, int64_t Config::*member) {
  OptionOf<Config> option = row<Config>(head);
  option.set = [name = option.name, member](Config& config, const Values& values) {
    const std::string& value = single(name, values);
    try {
      config.*member = value == "auto" ? kAutoBytes : parse_byte_size(value);
    } catch (const Error& error) {
      throw Error(error.kind(), "--" + name + ": " + error.what());
    }
  };
  option.get = [member](const Config& config) {
    return Values{config.*member == kAutoBytes ? "auto" : std::to_string(config.*member)};
  };
  return option;
}

template <typename Enum>
using Names = std::vector<std::pair<Enum, std::string>>;

template <typename Config, typename Enum>
OptionOf<Config> choice(const Head& head, Enum Config::*member, Names<Enum> names,
                        const Values& later = {}) {
  OptionOf<Config> option = row<Config>(head);
  option.set = [name = option.name, member, names, later](Config& config, const Values& values) {
    const std::string& value = single(name, values);
    if (std::find(later.begin(), later.end(), value) != later.end()) {
      throw Error(ErrorKind::kBadInput, "--" + name + " " + value + " is not in this version");
    }
    std::string expected = "one of";
    for (const auto& [key, text] : names) {
      if (text == value) {
        config.*member = key;
        return;
      }
      expected += " " + text;
    }
    refuse(name, value, expected);
  };
  option.get = [member, names](const Config& config) {
    for (const auto& [key, text] : names) {
      if (key == config.*member) return Values{text};
    }
    return Values{};
  };
  return option;
}

}  // namespace options
}  // namespace hetmem
