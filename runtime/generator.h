// Generator: text generation, token by token, with a key/value cache. It owns weights (fp32), cache
// and working memory, all reserved in its device tier. Not thread-safe.
//
//   Generator generator("smollm2", {});
//   generator.start(prompt_ids, /*max_new_tokens=*/32, SamplingOptions{});
//   while (const std::optional<int32_t> id = generator.next()) use(*id);
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "io/generation_config.h"
#include "io/model_config.h"
#include "runtime/model_weights.h"
#include "runtime/sampling.h"
#include "runtime/train_config.h"

namespace hetmem {

struct GeneratorOptions {
  int64_t threads = 0;  // 0: all
  int64_t device_memory = kAutoBytes;
  std::string device = "auto";  // as --device of train
};

// Gives all elements of a weight of the model, in order, to the sink.
using WeightReader = std::function<void(size_t index, const FloatSink& sink)>;

class Generator {
 public:
  // Reads the configuration; the weights are loaded by the first start(), from `weights` where it
  // is given (those of a Trainer), else from the folder. Throws Error (kBadInput).
  Generator(const std::string& folder, const GeneratorOptions& options, WeightReader weights = {});
  ~Generator();
  Generator(Generator&&) noexcept;
  Generator& operator=(Generator&&) noexcept;

  const ModelConfig& model() const;
  const GenerationConfig& generation_config() const;

  // Begins a sequence; an earlier one is forgotten. An empty prompt stands for the model's
  // beginning-of-text token. Throws Error: kBadInput for a prompt longer than the model's positions
  // or with ids outside of the vocabulary, kDoesNotFit with the smallest budget that works.
  void start(std::span<const int32_t> prompt, int64_t max_new_tokens,
             const SamplingOptions& sampling);
  // The next token, an end-of-text token included; nothing after one, after max_new_tokens, or when
  // the model has no positions left. Throws Error (kNonFinite).
  std::optional<int32_t> next();
  // Whether the sequence ended because the model has no positions left.
  bool out_of_positions() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace hetmem
