#include "runtime/sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/philox.h"

namespace hetmem {
namespace {

// The stream of the generator that draws tokens; dropout sites and initialisers have others.
constexpr uint64_t kSamplingStream = uint64_t{2} << 32;

// Uniform in [0, 1) with 53 bits.
double draw(uint64_t seed, int64_t position) {
  const auto words = philox(seed, kSamplingStream, static_cast<uint64_t>(position));
  const uint64_t bits = (static_cast<uint64_t>(words[1]) << 32) | words[0];
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

struct Candidate {
  int32_t id = 0;
  double weight = 0;  // its probability, times a constant
};

double weight_of(const std::vector<Candidate>& candidates) {
  return std::accumulate(candidates.begin(), candidates.end(), 0.0,
                         [](double sum, const Candidate& next) { return sum + next.weight; });
}

// The head of the candidates, most likely first, that holds `share` of all weight.
void keep_nucleus(std::vector<Candidate>& candidates, double share) {
  const double all = weight_of(candidates);
  // Those below this hold less than what is left out, together: no need to sort them.
  const double least = (1 - share) * all / static_cast<double>(candidates.size());
  std::erase_if(candidates, [least](const Candidate& next) { return next.weight < least; });
  std::stable_sort(candidates.begin(), candidates.end(),
                   [](const Candidate& a, const Candidate& b) { return a.weight > b.weight; });
  double held = 0;
  size_t kept = 0;
  while (kept < candidates.size() && held < share * all) held += candidates[kept++].weight;
  candidates.resize(std::max<size_t>(1, kept));
}

}  // namespace

void check_sampling(const SamplingOptions& options) {
  if (!(options.temperature >= 0) || !std::isfinite(options.temperature)) {
    throw Error(ErrorKind::kBadInput, "--temperature " + std::to_string(options.temperature) +
                                          " must be a number of at least 0 (0: greedy)");
  }
  if (!(options.top_p > 0 && options.top_p <= 1)) {
    throw Error(ErrorKind::kBadInput, "--top-p " + std::to_string(options.top_p) +
                                          " must be a number above 0, at most 1");
  }
}

int32_t sample(std::span<const float> logits, const SamplingOptions& options, int64_t position) {
  const auto best = std::max_element(logits.begin(), logits.end());
  const bool finite =
      std::none_of(logits.begin(), logits.end(), [](float logit) { return std::isnan(logit); });
  if (best == logits.end() || !finite || !std::isfinite(*best)) {
    throw Error(ErrorKind::kNonFinite, "the logits of position " + std::to_string(position) +
                                           " are not finite; are the weights of the model intact?");
  }
  if (options.temperature == 0) return static_cast<int32_t>(best - logits.begin());
  std::vector<Candidate> candidates;
  candidates.reserve(logits.size());
  for (size_t id = 0; id < logits.size(); ++id) {
    const double exponent = (static_cast<double>(logits[id]) - *best) / options.temperature;
    candidates.push_back({static_cast<int32_t>(id), std::exp(exponent)});
  }
  if (options.top_p < 1) keep_nucleus(candidates, options.top_p);
  const double target = draw(options.seed, position) * weight_of(candidates);
  double passed = 0;
  int32_t last = candidates.front().id;
  for (const Candidate& candidate : candidates) {
    if (candidate.weight == 0) continue;
    passed += candidate.weight;
    last = candidate.id;
    if (target < passed) break;
  }
  return last;
}

void penalise_repetition(std::span<float> logits, std::span<const int32_t> seen, double penalty) {
  if (penalty == 1) return;
  std::vector<int32_t> ids(seen.begin(), seen.end());
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  const auto factor = static_cast<float>(penalty);
  for (const int32_t id : ids) {
    float& logit = logits[static_cast<size_t>(id)];
    logit = logit < 0 ? logit * factor : logit / factor;
  }
}

}  // namespace hetmem
