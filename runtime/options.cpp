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

std::string canonical_option(std::string name) {
  std::replace(name.begin(), name.end(), '_', '-');
  return name;
}

OptionValues read_config_file(const std::string& path) {
  OptionValues values;
  try {
    const YAML::Node root = YAML::LoadFile(path);
    if (!root.IsMap()) {
      throw Error(ErrorKind::kBadInput, path + " is not a map of options to values");
    }
    for (const auto& entry : root) {
      const std::string key = canonical_option(entry.first.as<std::string>());
      if (values.count(key) != 0) {
        throw Error(ErrorKind::kBadInput, path + " gives \"" + key + "\" twice");
      }
      std::vector<std::string>& texts = values[key];
      if (entry.second.IsSequence()) {
        for (const auto& item : entry.second) texts.push_back(item.as<std::string>());
      } else if (entry.second.IsScalar()) {
        texts.push_back(entry.second.as<std::string>());
      } else if (entry.second.IsNull()) {
        values.erase(key);
      } else {
        throw Error(ErrorKind::kBadInput, path + ": \"" + key + "\" is neither a value nor a list");
      }
    }
  } catch (const YAML::BadFile&) {
    throw Error(ErrorKind::kBadInput, "cannot read the configuration file " + path);
  } catch (const YAML::Exception& error) {
    throw Error(ErrorKind::kBadInput, path + " is not valid YAML: " + error.what());
  }
  return values;
}

}  // namespace hetmem
