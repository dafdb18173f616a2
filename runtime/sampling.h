// Sampling: which token follows, given the logits. Pure, so thread-safe; the draw is a function of
// seed and position alone.
#pragma once

#include <cstdint>
#include <span>

namespace hetmem {

struct SamplingOptions {
  double temperature = 1.0;  // 0: the most likely token, the first of equals
  double top_p = 1.0;        // the smallest set of tokens that holds this much probability
  uint64_t seed = 42;
};

// Throws Error (kBadInput) on a temperature below 0 or a top_p outside of (0, 1], naming the flag.
void check_sampling(const SamplingOptions& options);

// The id that follows. Probabilities are softmax(logits / temperature) in double; `position` is
// that of the new token. Throws Error (kNonFinite) where no logit is a finite number.
int32_t sample(std::span<const float> logits, const SamplingOptions& options, int64_t position);

// Logits of ids seen before made less likely by `penalty` (Keskar et al. 2019, section 4.1), as
// repetition_penalty of generation_config.json asks; each id counts once.
void penalise_repetition(std::span<float> logits, std::span<const int32_t> seen, double penalty);

}  // namespace hetmem
