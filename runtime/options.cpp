#include "runtime/options.h"

#include <yaml-cpp/yaml.h>

namespace hetmem {
namespace options {

void refuse(const std::string& name, const std::string& value, const std::string& expected) {
  throw Error(ErrorKind::kBadInput, "--" + name + " is \"" + value + "\"; it must be " + expected);
}

const std::string& single(const std::string& name, const Values& values) {
  if (values.size() != 1) {
    throw Error(ErrorKind::kBadInput,
                "--" + name + " takes one value, got " + std::to_string(values.size()));
  }
  return values.front();
}

}  // namespace options

namespace {

// The share of letters that two names have both, in the same order: what a slip of the keyboard
// leaves as it was.
double likeness(const std::string& name, const std::string& b) {
  const std::string a = lower_case(name);
  std::vector<size_t> both(b.size() + 1);  // of what was seen of a with each beginning of b
  for (const char letter : a) {
    size_t before = 0;
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t without = both[j + 1];
      both[j + 1] = letter == b[j] ? before + 1 : std::max(without, both[j]);
      before = without;
    }
  }
  return 2.0 * static_cast<double>(both.back()) / static_cast<double>(a.size() + b.size());
}

template <typename Load>
OptionValues values_of(const std::string& source, const std::vector<std::string>& names,
                       const Load& load) {
  OptionValues values;
  try {
    const YAML::Node root = load();
    if (!root.IsMap()) {
      throw Error(ErrorKind::kBadInput, source + " is not a map of options to values");
    }
    for (const auto& entry : root) {
      const std::string key = canonical_option(entry.first.as<std::string>());
      if (values.count(key) != 0) {
        throw Error(ErrorKind::kBadInput, source + " gives \"" + key + "\" twice");
      }
      std::vector<std::string>& texts = values[key];
      if (entry.second.IsSequence()) {
        for (const auto& item : entry.second) texts.push_back(item.as<std::string>());
      } else if (entry.second.IsScalar()) {
        texts.push_back(entry.second.as<std::string>());
      } else if (entry.second.IsNull()) {
        if (std::find(names.begin(), names.end(), key) != names.end()) values.erase(key);
      } else {
        throw Error(ErrorKind::kBadInput,
                    source + ": \"" + key + "\" is neither a value nor a list");
      }
    }
  } catch (const YAML::BadFile&) {
    throw Error(ErrorKind::kBadInput, "cannot read the configuration file " + source);
  } catch (const YAML::Exception& error) {
    throw Error(ErrorKind::kBadInput, source + " is not valid YAML: " + error.what());
  }
  return values;
}

}  // namespace

std::string lower_case(std::string text) {
  for (char& c : text) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return text;
}

std::string canonical_option(std::string name) {
  std::replace(name.begin(), name.end(), '_', '-');
  return name;
}

OptionValues read_config_file(const std::string& path, const std::vector<std::string>& names) {
  return values_of(path, names, [&] { return YAML::LoadFile(path); });
}

OptionValues read_config_text(const std::string& yaml, const std::string& source,
                              const std::vector<std::string>& names) {
  return values_of(source, names, [&] { return YAML::Load(yaml); });
}

std::string nearest_name(const std::string& name, const std::vector<std::string>& names) {
  std::string nearest;
  double most = 0.65;  // below that, names have little to do with each other
  for (const std::string& other : names) {
    const double alike = likeness(name, other);
    if (alike <= most) continue;
    most = alike;
    nearest = other;
  }
  return nearest;
}

void refuse_unknown_option(const std::string& name, const std::vector<std::string>& names) {
  const std::string nearest = nearest_name(canonical_option(name), names);
  const std::string hint = nearest.empty() ? "" : "did you mean --" + nearest + "? ";
  throw Error(ErrorKind::kBadInput, "unknown option --" + name + "; " + hint + "--help lists them");
}

}  // namespace hetmem
