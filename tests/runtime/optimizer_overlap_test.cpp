// The host's optimizer steps beside the device, in training: the same bits as after the step, in
// whatever memory, whether gradients are clipped or not, and whatever looks at the state meanwhile.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "io/file.h"
#include "runtime/checkpoint.h"
#include "runtime/norm_history.h"
#include "tests/runtime/tiny_models.h"

namespace hetmem {
namespace {

constexpr int64_t kSteps = 7;
constexpr double kNeverClips = 1e9;
constexpr double kAlwaysClips = 1e-3;

// Plans as for a device with memory of its own, beside a slow host: everything that can overlap
// does. What runs is the processor.
constexpr const char* kApart = R"({"gemm_flops":1e10,"bf16_flops":0,"memory_bandwidth":2e10,
  "host_bandwidth":4e8,"to_device":6e9,"to_host":6e9,"host_shares_compute":false})";

TrainConfig overlapped(const ModelFolder& folder) {
  write_text_file(folder.path() + "/apart.json", kApart);
  TrainConfig config = tiny_config(folder);
  config.machine = folder.path() + "/apart.json";
  config.max_grad_norm = 0;
  config.always_overlap = true;  // whatever times are measured
  return config;
}

TrainConfig serial(TrainConfig config) {
  config.optimizer_overlap = false;
  config.device_memory = kAmple;
  return config;
}

int64_t early_chunks(const Trainer& trainer) {
  const std::vector<bool>& early = trainer.plan().training.plan.early;
  return std::count(early.begin(), early.end(), true);
}

TEST(OptimizerOverlap, ChangesNoBit) {
  int64_t early = 0;
  for (const char* name : {"gpt2", "qwen3_tied"}) {
    const ModelFolder folder(tiny_model(name));
    for (const OptimizerKind optimizer :
         {OptimizerKind::kAdamW, OptimizerKind::kAdamW8Bit, OptimizerKind::kSgd}) {
      for (const int64_t accumulation : {1, 2, 4}) {
        for (const double limit : {0.0, kNeverClips, 0.5, kAlwaysClips}) {
          const bool other = optimizer != OptimizerKind::kAdamW;
          if ((other || accumulation == 2) && (accumulation == 4 || limit > 1)) continue;
          TrainConfig config = overlapped(folder);
          config.optimizer = optimizer;
          config.gradient_accumulation_steps = accumulation;
          config.max_grad_norm = limit;
          config.threads = accumulation == 4 ? 3 : accumulation;
          config.warmup_steps = 3;
          config.compute_dtype = accumulation == 2 ? "bf16" : "fp32";  // weights in two halves
          const Outcome expected = train(serial(config), kSteps);
          for (const int64_t budget : device_budgets(config, 3)) {
            SCOPED_TRACE(std::string(name) + ", limit " + std::to_string(limit) + ", budget " +
                         std::to_string(budget));
            config.device_memory = budget;
            Trainer trainer(config, kSteps);
            Outcome outcome;
            take_steps(trainer, kSteps, outcome);
            early += early_chunks(trainer);
            outcome.state = state_of(trainer);
            EXPECT_TRUE(outcome == expected);
          }
        }
      }
    }
  }
  EXPECT_GT(early, 0);
}

// Early steps are planned where nothing is clipped and left where everything is; where some steps
// are, those that were taken in vain are taken again.
TEST(OptimizerOverlap, EarlyStepsFollowTheNorms) {
  const ModelFolder folder(tiny_model("llama"));
  TrainConfig config = overlapped(folder);
  config.device_memory = device_budgets(config, 2).front();
  const auto after = [&](double limit, int64_t steps) {
    config.max_grad_norm = limit;
    Trainer trainer(config, steps);
    Outcome outcome;
    take_steps(trainer, steps, outcome);
    const Plan& plan = trainer.plan().training.plan;
    EXPECT_EQ(plan.overlap, true);
    EXPECT_EQ(plan.host.peak, host_bytes(trainer.access_trace(), plan.resident) +
                                  spare_bytes(trainer.access_trace(), plan.early));
    return early_chunks(trainer);
  };
  EXPECT_GT(after(0, 1), 0);
  EXPECT_GT(after(kNeverClips, 3), 0);
  EXPECT_EQ(after(kAlwaysClips, 3), 0);
  config.optimizer_overlap = false;
  Trainer trainer(config, 1);
  EXPECT_FALSE(trainer.plan().training.plan.overlap);
}

TEST(OptimizerOverlap, NormsSayWhetherEarlyStepsAreWorthIt) {
  NormHistory unlimited(0);
  unlimited.add(1);
  EXPECT_TRUE(unlimited.worth_planning() && unlimited.worth_trying());
  NormHistory norms(1.0);
  EXPECT_FALSE(norms.worth_planning() || norms.worth_trying());
  norms.add(1);
  EXPECT_FALSE(norms.worth_planning());
  norms.add(1);
  EXPECT_TRUE(norms.worth_planning() && norms.worth_trying());
  norms.add(0.5);
  EXPECT_TRUE(norms.worth_planning() && !norms.worth_trying());
  for (int i = 0; i < 3; ++i) norms.add(0.5);
  EXPECT_FALSE(norms.worth_planning());
  for (int i = 0; i < 7; ++i) norms.add(1);
  EXPECT_TRUE(norms.worth_trying() && !norms.worth_planning());  // one of the last is left
  norms.add(1);
  EXPECT_TRUE(norms.worth_planning());
}

// Every norm at which one of the steps is clipped and the next is not, or the other way round.
TEST(OptimizerOverlap, AStepThatWasTakenInVainIsTakenAgain) {
  const ModelFolder folder(tiny_model("qwen2"));
  TrainConfig config = overlapped(folder);
  const Outcome free = train(serial(config), kSteps);
  config.device_memory = device_budgets(config, 2).front();
  int64_t mixed = 0;
  for (const double norm : free.norms) {
    config.max_grad_norm = norm * 1.0001;
    const Outcome expected = train(serial(config), kSteps);
    const auto clipped = std::count_if(expected.norms.begin(), expected.norms.end(),
                                       [&](double n) { return n > config.max_grad_norm; });
    mixed += clipped > 0 && clipped < kSteps ? 1 : 0;
    EXPECT_TRUE(train(config, kSteps) == expected);
  }
  EXPECT_GT(mixed, 2);
}

TEST(OptimizerOverlap, HostMemoryLimitsTheSpareAndNothingElse) {
  const ModelFolder folder(tiny_model("llama_tied"));
  TrainConfig config = overlapped(folder);
  const Outcome expected = train(serial(config), kSteps);
  config.device_memory = device_budgets(config, 2).front();
  const RunPlan plan = plan_of(config);
  const int64_t state = host_bytes(plan.training.trace.access, plan.training.plan.resident);
  for (const int64_t spare : {int64_t{0}, state / 4, state}) {
    config.host_memory = state + spare;
    Trainer trainer(config, kSteps);
    Outcome outcome;
    take_steps(trainer, kSteps, outcome);
    EXPECT_EQ(early_chunks(trainer) > 0, spare > 0);
    EXPECT_LE(trainer.plan().training.plan.host.peak, config.host_memory);
    outcome.state = state_of(trainer);
    EXPECT_TRUE(outcome == expected);
  }
}

// Whatever looks at the state between two steps finds that of all steps.
TEST(OptimizerOverlap, TheStateIsWholeBetweenSteps) {
  for (const char* name : {"gpt2", "llama_tied"}) {
    const ModelFolder folder(tiny_model(name));
    TrainConfig config = overlapped(folder);
    config.threads = 2;
    config.compute_dtype = std::string(name) == "gpt2" ? "bf16" : "fp32";
    std::vector<std::vector<float>> states;
    std::vector<double> evaluations;
    Outcome expected;
    {
      Trainer trainer(serial(config), 12);
      for (int64_t step = 1; step <= 12; ++step) {
        take_steps(trainer, step, expected);
        states.push_back(state_of(trainer));
        evaluations.push_back(trainer.evaluate(tokens_of(trainer, 20)));
      }
    }
    const std::vector<int64_t> budgets = device_budgets(config, 3);
    config.device_memory = budgets[0];
    Trainer trainer(config, 12);
    Outcome outcome;
    for (int64_t step = 1; step <= 12; ++step) {
      take_steps(trainer, step, outcome);
      const auto at = static_cast<size_t>(step - 1);
      switch (step % 4) {
        case 0:
          trainer.set_budget(budgets[static_cast<size_t>(step / 4 % 3)], kAmple);
          break;
        case 1:
          EXPECT_EQ(trainer.evaluate(tokens_of(trainer, 20)), evaluations[at]);
          break;
        case 2: {
          const TemporaryFolder out;
          save_checkpoint(trainer, out.path() + "/checkpoint");
          TrainConfig other = serial(config);
          Trainer resumed(other, 12);
          load_checkpoint(resumed, out.path() + "/checkpoint");
          EXPECT_TRUE(state_of(resumed) == states[at]);
          break;
        }
        default:
          break;  // the next step follows at once
      }
      if (step % 3 == 0) {
        EXPECT_TRUE(state_of(trainer) == states[at]);
      }
    }
    EXPECT_TRUE(outcome.losses == expected.losses && outcome.norms == expected.norms);
  }
}

TEST(OptimizerOverlap, TwoTrainersTakeTurns) {
  const ModelFolder first(tiny_model("qwen2"));
  const ModelFolder second(tiny_model("gpt2"));
  std::vector<TrainConfig> configs{overlapped(first), overlapped(second)};
  configs[1].max_grad_norm = kNeverClips;
  std::vector<Outcome> expected;
  for (TrainConfig& config : configs) {
    config.threads = 2;
    config.device_memory = device_budgets(config, 2).front();
    expected.push_back(train(serial(config), kSteps));
  }
  Trainer a(configs[0], kSteps);
  Trainer b(configs[1], kSteps);
  std::vector<Outcome> outcomes(2);
  for (int64_t step = 1; step <= kSteps; ++step) {
    take_steps(a, step, outcomes[0]);
    take_steps(b, step, outcomes[1]);
  }
  outcomes[0].state = state_of(a);
  outcomes[1].state = state_of(b);
  EXPECT_TRUE(outcomes == expected);
}

// A trainer may end while the host still steps.
TEST(OptimizerOverlap, ATrainerMayEndAtAnyStep) {
  const ModelFolder folder(tiny_model("qwen3"));
  TrainConfig config = overlapped(folder);
  config.device_memory = device_budgets(config, 2).front();
  for (int64_t steps = 1; steps <= 4; ++steps) {
    Trainer trainer(config, steps);
    Outcome outcome;
    take_steps(trainer, steps, outcome);
    EXPECT_EQ(trainer.steps_done(), steps);
  }
}

TEST(OptimizerOverlap, AStepThatIsNotFiniteStartsNone) {
  const ModelFolder folder(tiny_model("qwen2"));
  for (const OnNonFinite policy : {OnNonFinite::kStop, OnNonFinite::kSkip}) {
    TrainConfig config = overlapped(folder);
    config.learning_rate = 1e30;
    config.optimizer = OptimizerKind::kSgd;
    config.on_nonfinite = policy;
    config.device_memory = device_budgets(config, 2).front();
    Trainer trainer(config, 8);
    Trainer other(serial(config), 8);
    int64_t refused = 0;
    for (int64_t step = 0; step < 8; ++step) {
      const auto take = [&](Trainer& of) {
        try {
          return of.step(tokens_of(of, step)).skipped ? 1 : 0;
        } catch (const Error& error) {
          EXPECT_EQ(error.kind(), ErrorKind::kNonFinite);
          return 1;
        }
      };
      const int taken = take(other);
      EXPECT_EQ(take(trainer), taken);
      refused += taken;
      if (step % 2 == 0) {
        EXPECT_TRUE(state_of(trainer) == state_of(other)) << step;
      }
      EXPECT_EQ(trainer.steps_done(), other.steps_done());
    }
    EXPECT_GT(refused, 2);
  }
}

// What the simulator counts is what the copies count, step after step, and a late step of the host
// makes the device wait without changing what it moves.
TEST(OptimizerOverlap, MovesWhatIsPlanned) {
  const ModelFolder folder(tiny_model("llama"));
  TrainConfig config = overlapped(folder);
  config.gradient_accumulation_steps = 2;
  for (const int64_t budget : device_budgets(config, 3)) {
    config.device_memory = budget;
    Trainer trainer(config, 8);
    for (int64_t step = 0; step < 8; ++step) {
      const Plan plan = trainer.plan().training.plan;
      const StepReport report = trainer.step(tokens_of(trainer, step));
      EXPECT_EQ(report.host.peak, plan.host.peak);
      EXPECT_EQ(report.traffic.to_host, plan.traffic.to_host);
      if (step >= 4) {
        EXPECT_LE(report.traffic.to_device, 2 * plan.traffic.to_device);
        EXPECT_GE(report.exposed_copy_seconds, 0.0);
      }
    }
  }
}

}  // namespace
}  // namespace hetmem
