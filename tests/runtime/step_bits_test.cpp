// Memory never changes the numbers: losses, norms and all state, bit for bit.
#include <gtest/gtest.h>

#include <thread>

#include "tests/runtime/tiny_models.h"

namespace hetmem {
namespace {

constexpr int64_t kSteps = 20;

class EveryModel : public testing::TestWithParam<std::pair<std::string, std::string>> {};

TEST_P(EveryModel, NoBitDependsOnBudgetPrefetchOrThreads) {
  const ModelFolder folder(GetParam().second);
  TrainConfig config = tiny_config(folder);
  const Outcome expected = train(config, kSteps);
  ASSERT_NE(expected.losses.front(), expected.losses.back());
  int64_t streamed = 0;
  int run = 0;
  for (const int64_t budget : device_budgets(config, 5)) {
    config.device_memory = budget;
    for (const bool prefetch : {false, true}) {
      config.prefetch = prefetch;
      config.threads = 1 + run++ % 3;
      const RunPlan plan = plan_of(config);
      ASSERT_TRUE(plan.fits());
      for (const bool resident : plan.training.plan.resident) streamed += resident ? 0 : 1;
      EXPECT_TRUE(train(config, kSteps) == expected) << "device budget " << budget << " prefetch "
                                                     << prefetch << " threads " << config.threads;
    }
  }
  EXPECT_GT(streamed, 0);
}

class Grouping : public testing::TestWithParam<std::string> {};

TEST_P(Grouping, NoBitDependsOnTheGroupingOfMicroBatches) {
  const ModelFolder folder(tiny_model(GetParam()));
  for (const int64_t accumulation : {1, 2, 4, 8}) {
    TrainConfig config = tiny_config(folder);
    config.batch_size = 1;
    config.gradient_accumulation_steps = accumulation;
    config.group = 1;
    const Outcome expected = train(config, kSteps);
    for (const int64_t group : {int64_t{1}, accumulation}) {
      config.group = group;
      config.device_memory = kAmple;
      config.device_memory = plan_of(config).smallest_device;
      const RunPlan plan = plan_of(config);
      ASSERT_TRUE(plan.fits());
      EXPECT_EQ(plan.training.plan.group, group);
      EXPECT_TRUE(train(config, kSteps) == expected)
          << accumulation << " micro-batches in groups of " << group;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(StepBits, EveryModel, testing::ValuesIn(tiny_models()),
                         [](const auto& model) { return model.param.first; });

INSTANTIATE_TEST_SUITE_P(StepBits, Grouping,
                         testing::Values("gpt2", "llama", "qwen2", "qwen3_tied"),
                         [](const auto& model) { return model.param; });

TEST(StepBits, ThreadsInEveryCombinationWithTheSmallestBudget) {
  const ModelFolder folder(tiny_model("gpt2"));
  TrainConfig config = tiny_config(folder);
  const Outcome expected = train(config, kSteps);
  config.device_memory = device_budgets(config, 2).front();
  for (const int64_t threads : {1, 2, 3}) {
    for (const bool prefetch : {false, true}) {
      config.threads = threads;
      config.prefetch = prefetch;
      EXPECT_TRUE(train(config, kSteps) == expected) << threads << " prefetch " << prefetch;
    }
  }
}

TEST(StepBits, FrozenWeightsAndSgd) {
  const ModelFolder folder(tiny_model("qwen3"));
  TrainConfig config = tiny_config(folder);
  config.freeze = "embed|layers.0.self_attn";
  config.optimizer = OptimizerKind::kSgd;
  const Outcome expected = train(config, kSteps);
  for (const int64_t budget : device_budgets(config, 4)) {
    config.device_memory = budget;
    EXPECT_TRUE(train(config, kSteps) == expected) << budget;
  }
}

class SplitMasters : public testing::TestWithParam<std::string> {};

TEST_P(SplitMasters, NoBitDependsOnBudgetPrefetchOrThreads) {
  const ModelFolder folder(tiny_model(GetParam()));
  for (const OptimizerKind optimizer :
       {OptimizerKind::kAdamW, OptimizerKind::kAdamW8Bit, OptimizerKind::kSgd}) {
    TrainConfig config = tiny_config(folder);
    config.compute_dtype = "bf16";
    config.optimizer = optimizer;
    config.gradient_accumulation_steps = 2;
    const Outcome expected = train(config, kSteps);
    ASSERT_NE(expected.losses.front(), expected.losses.back());
    config.prefetch = false;
    for (const int64_t budget : device_budgets(config, 4)) {
      config.device_memory = budget;
      config.threads = 1 + config.threads % 3;
      EXPECT_TRUE(train(config, kSteps) == expected) << "device budget " << budget;
      config.prefetch = true;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(StepBits, SplitMasters, testing::Values("gpt2", "llama", "qwen3_tied"),
                         [](const auto& model) { return model.param; });

TEST(StepBits, TwoTrainersInOneProcess) {
  const ModelFolder llama(tiny_model("llama"));
  const ModelFolder gpt2(tiny_model("gpt2"));
  std::vector<TrainConfig> configs{tiny_config(llama), tiny_config(gpt2)};
  std::vector<Outcome> alone;
  for (TrainConfig& config : configs) {
    alone.push_back(train(config, kSteps));
    config.device_memory = device_budgets(config, 2).front();
    config.threads = 2;
  }
  std::vector<Outcome> together(configs.size());
  std::vector<std::thread> threads;
  for (size_t i = 0; i < configs.size(); ++i) {
    threads.emplace_back([&, i] { together[i] = train(configs[i], kSteps); });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(together == alone);
}

}  // namespace
}  // namespace hetmem
