// Training on a GPU: the same numbers whatever the budgets, and those of the processor but for how
// sums are rounded.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "tests/gpu.h"
#include "tests/runtime/tiny_models.h"

namespace hetmem {
namespace {

constexpr int64_t kSteps = 8;

TrainConfig cuda_config(const ModelFolder& folder) {
  TrainConfig config = tiny_config(folder);
  config.device = "cuda";
  config.compute_dtype = "fp32";
  config.threads = 4;
  return config;
}

void expect_close(const std::vector<double>& values, const std::vector<double>& expected,
                  double close, const char* what) {
  ASSERT_EQ(values.size(), expected.size());
  double worst = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    worst = std::max(worst, std::abs(values[i] - expected[i]) / std::abs(expected[i]));
    EXPECT_NEAR(values[i], expected[i], close * std::abs(expected[i]))
        << what << " of step " << i + 1;
  }
  std::printf("%s: at most %.1e apart\n", what, worst);
}

class CudaTrainer : public testing::TestWithParam<std::pair<std::string, std::string>> {
 protected:
  void SetUp() override { HETMEM_REQUIRE_GPU(); }
};

TEST_P(CudaTrainer, LossesAreThoseOfTheProcessor) {
  const ModelFolder folder(GetParam().second);
  TrainConfig config = cuda_config(folder);
  config.learning_rate = 1e-4;  // so that roundings are not blown up from step to step
  const Outcome gpu = train(config, kSteps);
  config.device = "cpu";
  const Outcome cpu = train(config, kSteps);
  expect_close(gpu.losses, cpu.losses, 1e-5, "losses");
  expect_close(gpu.norms, cpu.norms, 1e-4, "norms");
}

TEST_P(CudaTrainer, NoBitDependsOnTheBudgetOrThePrefetch) {
  const ModelFolder folder(GetParam().second);
  TrainConfig config = cuda_config(folder);
  const Outcome expected = train(config, kSteps);
  ASSERT_NE(expected.losses.front(), expected.losses.back());
  int64_t streamed = 0;
  for (const int64_t budget : device_budgets(config, 3)) {
    config.device_memory = budget;
    for (const bool prefetch : {false, true}) {
      config.prefetch = prefetch;
      const RunPlan plan = plan_of(config);
      ASSERT_TRUE(plan.fits());
      for (const bool resident : plan.training.plan.resident) streamed += resident ? 0 : 1;
      const Outcome outcome = train(config, kSteps);
      EXPECT_EQ(outcome.losses, expected.losses) << budget << " prefetch " << prefetch;
      EXPECT_EQ(outcome.norms, expected.norms) << budget << " prefetch " << prefetch;
      EXPECT_TRUE(outcome.state == expected.state) << budget << " prefetch " << prefetch;
    }
  }
  EXPECT_GT(streamed, 0);
}

INSTANTIATE_TEST_SUITE_P(Cuda, CudaTrainer, testing::ValuesIn(tiny_models()),
                         [](const auto& model) { return model.param.first; });

TEST(CudaTrainerOnce, WhatIsPlannedIsReservedAndMoved) {
  HETMEM_REQUIRE_GPU();
  const ModelFolder folder(tiny_model("llama"));
  TrainConfig config = cuda_config(folder);
  config.gradient_accumulation_steps = 2;
  for (const int64_t budget : device_budgets(config, 3)) {
    config.device_memory = budget;
    Trainer trainer(config, 4);
    for (int64_t step = 0; step < 4; ++step) {
      const Plan plan = trainer.plan().training.plan;
      const StepReport report = trainer.step(tokens_of(trainer, step));
      EXPECT_EQ(report.device.peak, plan.device.peak);
      EXPECT_LE(report.device.peak, report.device.budget);
      EXPECT_EQ(report.host.peak, plan.host.peak);
      EXPECT_EQ(report.traffic.to_host, plan.traffic.to_host) << budget;
      EXPECT_GE(report.traffic.to_device, plan.traffic.to_device) << budget;
      EXPECT_GE(report.exposed_copy_seconds, 0);
    }
    for (const double seconds : trainer.access_trace().op_seconds) EXPECT_GT(seconds, 0);
  }
}

TEST(CudaTrainerOnce, BudgetsMayChangeBetweenSteps) {
  HETMEM_REQUIRE_GPU();
  const ModelFolder folder(tiny_model("gpt2"));
  TrainConfig config = cuda_config(folder);
  config.optimizer = OptimizerKind::kSgd;
  const Outcome expected = train(config, 6);
  const std::vector<int64_t> budgets = device_budgets(config, 3);
  Trainer trainer(config, 6);
  Outcome outcome;
  for (int64_t step = 0; step < 6; ++step) {
    trainer.set_budget(budgets[static_cast<size_t>(step % 3)], kAmple);
    take_steps(trainer, step + 1, outcome);
    EXPECT_TRUE(std::isfinite(trainer.evaluate(tokens_of(trainer, 99))));
  }
  outcome.state = state_of(trainer);
  EXPECT_EQ(outcome.losses, expected.losses);
  EXPECT_TRUE(outcome == expected);
}

TEST(CudaTrainerOnce, AutoBudgetsAreWhatIsFree) {
  HETMEM_REQUIRE_GPU();
  const ModelFolder folder(tiny_model("gpt2"));
  TrainConfig config = cuda_config(folder);
  config.device_memory = kAutoBytes;
  config.host_memory = kAutoBytes;
  const TierBudgets budgets = budgets_of(config);
  EXPECT_GT(budgets.device, 0);
  EXPECT_LT(budgets.device, find_gpus().gpus.front().memory);
  EXPECT_GT(budgets.host, 0);
}

}  // namespace
}  // namespace hetmem
