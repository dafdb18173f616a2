// A DeepSpeed configuration as values of hetmem's options: optimizer, scheduler, batch, clipping,
// precision and offload, as `--deepspeed FILE.json` takes them. "auto" leaves an option as it is;
// a section that the file names means what DeepSpeed documents, its defaults included; every other
// key is named in a note. Pure; thread-safe.
//
//   const DeepSpeedMapping mapping = map_deepspeed(text, "ds.json", given);
//   for (const MappedOption& option : mapping.options) ...  // "learning-rate", "3e-05"
//
// Sources: DeepSpeed's "Configuration JSON" and "Learning Rate Schedulers", and the DeepSpeed page
// of transformers for "auto" and for which schedules are equal.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "runtime/options.h"

namespace hetmem {

struct MappedOption {
  std::string key;     // "optimizer.params.lr"
  std::string option;  // "learning-rate"
  std::string value;   // as the option takes it
  // DeepSpeed's default for a key that is not there: gives way to what is given elsewhere.
  bool implied = false;
};

struct DeepSpeedMapping {
  std::vector<MappedOption> options;
  std::vector<std::string> notes;  // for the user: keys without a meaning here, and the like
};

// `given` are the options that were given elsewhere, by canonical name; `source` is what messages
// call the file. Throws Error (kBadInput) that names the key, what was found and what to do.
DeepSpeedMapping map_deepspeed(std::string_view json, const std::string& source,
                               const OptionValues& given);

// `given` and what the file adds. Throws Error (kBadInput) that lists where the two disagree: as in
// transformers, neither wins.
OptionValues with_deepspeed_file(const OptionValues& given, const std::string& path,
                                 std::vector<std::string>& notes);

}  // namespace hetmem
