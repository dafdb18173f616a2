#include "runtime/sampling.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <vector>

#include "core/error.h"

namespace hetmem {
namespace {

std::vector<int> draws(const std::vector<float>& logits, const SamplingOptions& options,
                       int count) {
  std::vector<int> seen(logits.size(), 0);
  for (int i = 0; i < count; ++i) ++seen[static_cast<size_t>(sample(logits, options, i))];
  return seen;
}

// Pearson's statistic of counts against probabilities.
double chi_square(const std::vector<int>& counts, const std::vector<double>& probabilities,
                  int draws_made) {
  double sum = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    if (probabilities[i] == 0) {
      EXPECT_EQ(counts[i], 0) << i;
      continue;
    }
    const double expected = probabilities[i] * draws_made;
    sum += (counts[i] - expected) * (counts[i] - expected) / expected;
  }
  return sum;
}

TEST(Sampling, TemperatureZeroTakesTheFirstOfTheLargest) {
  SamplingOptions options;
  options.temperature = 0;
  EXPECT_EQ(sample(std::vector<float>{-1, 3, 2, 3}, options, 7), 1);
}

TEST(Sampling, FollowsTheSoftmaxAtATemperature) {
  const std::vector<float> logits{0.3F, -1.2F, 2.0F, 1.1F, -0.4F, 0.0F};
  SamplingOptions options;
  options.temperature = 0.7;
  std::vector<double> probabilities;
  double all = 0;
  for (const float logit : logits) all += std::exp(logit / options.temperature);
  for (const float logit : logits) {
    probabilities.push_back(std::exp(logit / options.temperature) / all);
  }
  constexpr int kDraws = 40000;
  // 5 degrees of freedom: above 25.7 once in 10,000.
  EXPECT_LT(chi_square(draws(logits, options, kDraws), probabilities, kDraws), 25.7);
}

TEST(Sampling, TopPKeepsTheSmallestSetThatHoldsTheShare) {
  // Probabilities 0.5, 0.25, 0.125, 0.125.
  const std::vector<float> logits{std::log(2.0F), std::log(1.0F), std::log(4.0F), 0.0F};
  SamplingOptions options;
  constexpr int kDraws = 20000;
  // Just over half needs two tokens, and these share as 2 to 1.
  options.top_p = 0.51;
  EXPECT_LT(chi_square(draws(logits, options, kDraws), {1.0 / 3, 0, 2.0 / 3, 0}, kDraws), 15.2);
  options.top_p = 0.49;
  EXPECT_EQ(draws(logits, options, kDraws)[2], kDraws);
  options.top_p = 1e-300;
  EXPECT_EQ(draws(logits, options, kDraws)[2], kDraws);
}

TEST(Sampling, TheDrawIsAFunctionOfSeedAndPosition) {
  const std::vector<float> logits(1000, 0.0F);
  SamplingOptions options;
  std::map<int32_t, int> ids;
  for (uint64_t seed = 0; seed < 30; ++seed) {
    options.seed = seed;
    EXPECT_EQ(sample(logits, options, 5), sample(logits, options, 5));
    EXPECT_NE(sample(logits, options, 5), sample(logits, options, 6));
    ++ids[sample(logits, options, 5)];
  }
  EXPECT_GT(ids.size(), 25U);
}

TEST(Sampling, ExtremesAreNoTrouble) {
  SamplingOptions options;
  options.temperature = 1e-300;
  EXPECT_EQ(sample(std::vector<float>{1.0F, 1.5F, -1e30F}, options, 0), 1);
  options.temperature = 1e300;
  EXPECT_LT(sample(std::vector<float>{1.0F, 1.5F, -1e30F}, options, 0), 3);
  const float infinity = std::numeric_limits<float>::infinity();
  options.temperature = 1;
  EXPECT_EQ(sample(std::vector<float>{-infinity, 0.0F, -infinity}, options, 0), 1);
  for (const float bad : {infinity, std::nanf("")}) {
    EXPECT_THROW(sample(std::vector<float>{0.0F, bad}, options, 0), Error);
  }
  EXPECT_THROW(sample(std::vector<float>{-infinity}, options, 0), Error);
}

TEST(Sampling, RefusesWhatItCannotMean) {
  for (const double temperature : {-0.1, std::nan("")}) {
    SamplingOptions options;
    options.temperature = temperature;
    EXPECT_THROW(check_sampling(options), Error);
  }
  for (const double top_p : {0.0, -1.0, 1.01, std::nan("")}) {
    SamplingOptions options;
    options.top_p = top_p;
    EXPECT_THROW(check_sampling(options), Error);
  }
}

TEST(Sampling, RepetitionIsPenalisedOnceAnId) {
  std::vector<float> logits{2.0F, -2.0F, 1.0F};
  penalise_repetition(logits, std::vector<int32_t>{1, 0, 1, 1}, 2.0);
  EXPECT_EQ(logits, (std::vector<float>{1.0F, -4.0F, 1.0F}));
}

}  // namespace
}  // namespace hetmem
