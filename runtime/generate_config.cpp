#include "runtime/generate_config.h"

#include <limits>

#include "core/error.h"

namespace hetmem {
namespace {

using Row = OptionOf<GenerateConfig>;

// The row of a member of a part of the configuration.
template <typename Part>
Row within(const OptionOf<Part>& row, Part GenerateConfig::*part) {
  Row result;
  static_cast<OptionHelp&>(result) = static_cast<const OptionHelp&>(row);
  result.set = [set = row.set, part](GenerateConfig& config, const options::Values& values) {
    set(config.*part, values);
  };
  return result;
}

Row prompt_option() {
  Row option = options::row<GenerateConfig>(
      {"prompt", "Text", "TEXT", "", "the text to continue (required)"});
  option.set = [](GenerateConfig& config, const options::Values& values) {
    config.prompt = options::single("prompt", values);
  };
  return option;
}

}  // namespace

const std::vector<Row>& generate_options() {
  using C = GenerateConfig;
  constexpr options::RealRange kShare{std::numeric_limits<double>::denorm_min(), 1,
                                      "a number above 0, at most 1"};
  static const std::vector<Row> table{
      options::text({"model", "Text", "DIR", "", "Hugging Face folder (required)"}, &C::model),
      prompt_option(),
      options::integer({"max-new-tokens", "Text", "N", "128", "tokens to add at most"},
                       &C::max_new_tokens, 1),
      within(options::real({"temperature", "Sampling", "X", "1.0", "0: the most likely token"},
                           &SamplingOptions::temperature, options::kAnyPositive),
             &C::sampling),
      within(options::real({"top-p", "Sampling", "X", "1.0",
                            "draw from the most likely tokens that hold this probability"},
                           &SamplingOptions::top_p, kShare),
             &C::sampling),
      within(options::integer({"seed", "Sampling", "N", "42", "seed of the draws"},
                              &SamplingOptions::seed, 0),
             &C::sampling),
      within(options::integer({"threads", "Machine", "N", "all", "threads that compute"},
                              &GeneratorOptions::threads, 1),
             &C::machine),
      within(options::text({"device", "Machine", "auto|cpu|cuda[:N]", "auto", "as of train"},
                           &GeneratorOptions::device),
             &C::machine),
      within(options::bytes({"device-memory", "Machine", "SIZE", "auto",
                             "hard budget of the device tier (1.5GiB, 2GB, bytes)"},
                            &GeneratorOptions::device_memory),
             &C::machine)};
  return table;
}

GenerateConfig resolve_generate_config(const OptionValues& values) {
  GenerateConfig config = resolve_options(generate_options(), values);
  if (config.model.empty()) {
    throw Error(ErrorKind::kBadInput, "--model is required: a Hugging Face folder");
  }
  if (!config.prompt) throw Error(ErrorKind::kBadInput, "--prompt is required: a text to continue");
  return config;
}

}  // namespace hetmem
