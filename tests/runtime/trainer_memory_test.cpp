// What a Trainer does with its tiers: what is planned is what is used, budgets change, memory is
// refused, and no thread touches what is not its own.
#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>

#include "core/byte_size.h"
#include "core/error.h"
#include "core/fault_plan.h"
#include "device/cpu/memory_guard.h"
#include "runtime/checkpoint.h"
#include "tests/runtime/tiny_models.h"

namespace hetmem {
namespace {

// A few million parameters, of which some stay and some are streamed in the middle budgets.
constexpr const char* kSmall = R"({"model_type":"qwen2","vocab_size":4099,"hidden_size":192,
  "intermediate_size":512,"num_hidden_layers":6,"num_attention_heads":6,"num_key_value_heads":2,
  "max_position_embeddings":64,"rms_norm_eps":1e-6,"tie_word_embeddings":true})";

// Bytes of the copies with which a plan begins where the step before left nothing.
int64_t first_bytes(const Plan& plan) {
  int64_t bytes = 0;
  for (size_t i = static_cast<size_t>(plan.next); i < plan.actions.size(); ++i) {
    bytes += plan.residencies[static_cast<size_t>(plan.actions[i].target)].bytes;
  }
  return bytes;
}

// Pages are whole: each block of memory may touch up to one more than was asked for.
int64_t page_slack(const RunPrograms& programs) {
  constexpr int64_t kPage = 4096;
  return kPage * (static_cast<int64_t>(programs.layout.chunks.size()) + 3);
}

class OfDtype : public testing::TestWithParam<std::string> {};

TEST_P(OfDtype, WhatIsPlannedIsUsedAndMoved) {
  const ModelFolder folder(kSmall);
  TrainConfig config = tiny_config(folder);
  config.compute_dtype = GetParam();
  config.batch_size = 2;
  config.sequence_length = 32;
  config.gradient_accumulation_steps = 2;
  const RunPrograms programs(load_model_config(config.model), config, config.sequence_length);
  for (const int64_t budget : device_budgets(config, 4)) {
    config.device_memory = budget;
    Trainer trainer(config, 6);
    for (int64_t step = 0; step < 6; ++step) {
      const Plan plan = trainer.plan().training.plan;
      const StepReport report = trainer.step(tokens_of(trainer, step));
      const auto expect_close = [&](const TierPlan& predicted, const TierUse& used) {
        EXPECT_LE(predicted.peak, predicted.budget);
        EXPECT_EQ(used.peak, predicted.peak);
        EXPECT_EQ(used.by_kind, predicted.by_kind);
        EXPECT_LE(used.touched, predicted.peak + page_slack(programs));
        EXPECT_GE(static_cast<double>(used.touched), 0.98 * static_cast<double>(predicted.peak));
      };
      expect_close(plan.device, report.device);
      expect_close(plan.host, report.host);
      EXPECT_EQ(report.traffic.to_host, plan.traffic.to_host) << budget;
      // Copies count when they are done: those with which the next step begins here or there, and
      // where a plan begins they are brought for the step itself, too.
      EXPECT_LE(std::abs(report.traffic.to_device - plan.traffic.to_device), first_bytes(plan))
          << budget;
    }
  }
}

// Weights, m and v, over both tiers, and gradients while they live.
TEST_P(OfDtype, AParameterTakesTwelveBytesAndItsGradientFour) {
  const ModelFolder folder(kSmall);
  TrainConfig config = tiny_config(folder);
  config.compute_dtype = GetParam();
  const RunPrograms programs(load_model_config(config.model), config, config.sequence_length);
  int64_t parameters = 0;
  for (const ValueId id : programs.training.weights) {
    parameters += programs.training.value(id).shape.elements();
  }
  for (const int64_t budget : device_budgets(config, 3)) {
    config.device_memory = budget;
    const PlannedStep step = plan_of(config).training;
    int64_t state = 0;
    for (const TraceChunk& chunk : step.trace.access.chunks) state += chunk.state_bytes();
    const TierPlan& host = step.plan.host;
    EXPECT_GE(state, 12 * parameters);
    EXPECT_LE(static_cast<double>(state), 12.3 * static_cast<double>(parameters));
    EXPECT_LE(static_cast<double>(host.by_kind[static_cast<size_t>(MemoryKind::kGradients)]),
              4.1 * static_cast<double>(parameters));
  }
}

// Products that read bf16 have half of the bytes brought.
TEST(TrainerMemory, SplitWeightsAreBroughtInHalfTheBytes) {
  const ModelFolder folder(kSmall);
  const auto brought = [&](const std::string& dtype) {
    TrainConfig config = tiny_config(folder);
    config.compute_dtype = dtype;
    config.device_memory = plan_of(config).smallest_device;
    const StepTrace trace = plan_of(config).training.trace;
    int64_t bytes = 0;
    for (const TraceChunk& chunk : trace.access.chunks) bytes += chunk.weight_bytes;
    return static_cast<double>(bytes);
  };
  EXPECT_NEAR(brought("bf16") / brought("fp32"), 0.5, 0.01);  // vectors stay fp32
}

INSTANTIATE_TEST_SUITE_P(TrainerMemory, OfDtype, testing::Values("fp32", "bf16"),
                         [](const auto& dtype) { return dtype.param; });

// Weights that pass all micro-batches at a visit are brought as often as for one. (A table is not:
// the head takes it for one micro-batch at a time.)
TEST(TrainerMemory, AccumulatedWeightTrafficIsThatOfOneMicroBatch) {
  const ModelFolder folder(kSmall);
  TrainConfig config = tiny_config(folder);
  config.batch_size = 1;
  config.sequence_length = 8;
  config.prefetch = false;
  const auto fetched = [&] {
    const RunPrograms programs(load_model_config(config.model), config, config.sequence_length);
    config.device_memory = kAmple;
    config.device_memory = plan_of(config).smallest_device;
    const RunPlan plan = plan_of(config);
    int64_t bytes = 0;
    for (const Residency& residency : plan.training.plan.residencies) {
      const auto& chunk = programs.layout.chunks[static_cast<size_t>(residency.chunk)];
      const auto tensor = static_cast<size_t>(chunk.pieces.front().tensor);
      const bool table = programs.layout.pieces[tensor].size() > 1;
      if (residency.fetch && residency.weights && !table) bytes += residency.bytes;
    }
    return bytes;
  };
  const int64_t one = fetched();
  EXPECT_GT(one, 0);
  config.gradient_accumulation_steps = 4;
  config.group = 4;
  EXPECT_LE(fetched(), one);
  config.group = 1;
  EXPECT_GT(fetched(), 2 * one);
}

TEST(TrainerMemory, TheSmallestBudgetsThatAreNamedWork) {
  for (const auto& [name, json] : tiny_models()) {
    const ModelFolder folder(json);
    for (const int64_t accumulation : {1, 4}) {
      TrainConfig config = tiny_config(folder);
      config.gradient_accumulation_steps = accumulation;
      const Plan roomy = plan_of(config).training.plan;
      const int64_t state = roomy.device.peak;  // more than all of the state
      for (const int64_t host : {kAmple, state / 2, state / 4, int64_t{0}}) {
        config.host_memory = host;
        config.device_memory = kAmple;
        const int64_t least = plan_of(config).smallest_device;
        config.device_memory = 0;
        EXPECT_EQ(plan_of(config).smallest_device, least);
        config.device_memory = least;
        Trainer trainer(config, 3);
        Outcome outcome;
        take_steps(trainer, 2, outcome);
        trainer.evaluate(tokens_of(trainer, 0));
        take_steps(trainer, 3, outcome);
        config.device_memory = least - 1;
        try {
          Trainer refused(config, 3);
          ADD_FAILURE() << name << ": " << least - 1 << " bytes are enough";
        } catch (const Error& error) {
          EXPECT_EQ(error.kind(), ErrorKind::kDoesNotFit);
          EXPECT_NE(std::string(error.what()).find(std::to_string(least)), std::string::npos)
              << error.what();
        }
      }
    }
  }
}

// What the device takes of one memory the host does not have.
TEST(TrainerMemory, TheSmallestShareOfOneMemoryThatIsNamedIsTheSmallest) {
  for (const auto& [name, json] : tiny_models()) {
    const ModelFolder folder(json);
    TrainConfig config = tiny_config(folder);
    config.device_memory = 0;
    config.host_memory = kAmple;
    const int64_t least = plan_of(config).smallest_device;
    const ModelConfig model = load_model_config(config.model);
    const RunPrograms programs(model, config, resolved_sequence_length(config, model));
    const auto plan_with = [&](int64_t device, int64_t shared) {
      return plan_run(programs, config, {},
                      {device, std::max<int64_t>(0, shared - device), shared});
    };
    const int64_t state = host_bytes(plan_of(config).training.trace.access,
                                     std::vector<bool>(programs.layout.chunks.size(), false));
    for (const int64_t shared : {kAmple, least + state, least + state / 2, state / 4}) {
      SCOPED_TRACE(name + ": " + std::to_string(shared) + " bytes in all");
      const int64_t named = plan_with(kAmple, shared).smallest_device;
      EXPECT_EQ(plan_with(0, shared).smallest_device, named);
      EXPECT_TRUE(plan_with(named, shared).fits());
      EXPECT_FALSE(plan_with(named - 1, shared).fits());
      if (shared >= least + state) {
        EXPECT_EQ(named, least);
      }
      try {
        refuse(plan_with(0, shared), {0, shared, shared});
      } catch (const Error& error) {  // the host budget is what is left
        const int64_t host = std::max<int64_t>(0, shared - named);
        const std::string left = "a host budget of " + format_byte_size(host) + ",";
        EXPECT_NE(std::string(error.what()).find(left), std::string::npos) << error.what();
      }
    }
  }
}

// 90 % of it, and of what is free beside it.
TEST(TrainerMemory, WhatARunHoldsCountsAsFreeForIt) {
  constexpr int64_t kHeld = int64_t{1} << 50;  // more than any machine has
  const ModelFolder folder(tiny_model("gpt2"));
  TrainConfig config = tiny_config(folder);
  config.device_memory = kAutoBytes;
  config.host_memory = kAutoBytes;
  EXPECT_LT(budgets_of(config).device, kHeld);
  const TierBudgets budgets = budgets_of(config, {}, {kHeld, kHeld});
  EXPECT_GE(budgets.device, 2 * kHeld / 10 * 9);
  EXPECT_EQ(budgets.device + budgets.host, budgets.shared);
}

TEST(TrainerMemory, BudgetsChangeInTheMiddleOfARun) {
  constexpr int64_t kTaken = 24;
  const ModelFolder folder(tiny_model("qwen3_tied"));
  TrainConfig config = tiny_config(folder);
  config.gradient_accumulation_steps = 2;
  const Outcome expected = train(config, kTaken);
  const std::vector<int64_t> budgets = device_budgets(config, 4);
  const int64_t least = budgets.front();
  Trainer trainer(config, kTaken);
  Outcome outcome;
  int64_t steps = 0;
  // Shrinks, grows, before the warm-up step, after it, and twice between two steps.
  for (const int64_t budget : {budgets[2], least, budgets[1], kAmple, least, budgets[1]}) {
    trainer.set_budget(budget, kAmple);
    take_steps(trainer, steps += 3, outcome);
    const StepReport report = trainer.step(tokens_of(trainer, steps));
    outcome.losses.push_back(report.loss);
    outcome.norms.push_back(report.grad_norm);
    ++steps;
    EXPECT_LE(report.device.peak, budget);
    EXPECT_EQ(report.device.budget, budget);
    try {
      trainer.set_budget(least - 1, kAmple);
      ADD_FAILURE() << least - 1 << " bytes are enough";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kDoesNotFit);
      EXPECT_NE(std::string(error.what()).find(std::to_string(least)), std::string::npos);
    }
    EXPECT_EQ(trainer.config().device_memory, budget);
    trainer.set_budget(kAmple, kAmple);
    trainer.set_budget(least, kAmple);
  }
  ASSERT_EQ(trainer.steps_done(), kTaken);
  outcome.state = state_of(trainer);
  EXPECT_TRUE(outcome == expected);
}

TEST(TrainerMemory, AHostBudgetThatShrinksMovesChunksToTheDevice) {
  const ModelFolder folder(tiny_model("llama"));
  TrainConfig config = tiny_config(folder);
  const Outcome expected = train(config, 9);
  const int64_t least = device_budgets(config, 2).front();
  config.device_memory = least;
  Trainer trainer(config, 9);
  Outcome outcome;
  take_steps(trainer, 3, outcome);
  trainer.set_budget(kAmple, 0);
  take_steps(trainer, 6, outcome);
  EXPECT_EQ(trainer.plan().training.plan.host.peak, 0);
  trainer.set_budget(least, kAmple);
  take_steps(trainer, 9, outcome);
  outcome.state = state_of(trainer);
  EXPECT_TRUE(outcome == expected);
}

struct Tiers {
  Tier* device = nullptr;
  Tier* host = nullptr;
  Trainer::OnTiers take() {
    return [this](Tier& d, Tier& h) {
      device = &d;
      host = &h;
    };
  }
};

std::string nth_reservation(bool of_device, int64_t n) {
  return std::string("tier.reserve@") + (of_device ? "device:" : "host:") + std::to_string(n) +
         "=fail";
}

// Every reservation of a construction fails once; returns how many there are.
int64_t fail_construction(const TrainConfig& config, bool of_device, const Outcome& expected) {
  for (int64_t n = 1;; ++n) {
    try {
      const FaultPlan::Session faults(nth_reservation(of_device, n));
      const Trainer trainer(config, 2);
      return n - 1;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kDoesNotFit);
      EXPECT_NE(std::string(error.what()).find(of_device ? "device" : "host"), std::string::npos);
    }
    if (n == 1) {  // another engine works
      EXPECT_TRUE(train(config, 2) == expected);
    }
  }
}

TEST(TrainerMemory, ConstructionMayFailAtAnyReservation) {
  const ModelFolder folder(tiny_model("qwen2"));
  TrainConfig config = tiny_config(folder);
  const Outcome expected = train(config, 2);
  config.device_memory = device_budgets(config, 3)[1];
  const auto chunks = static_cast<int64_t>(plan_of(config).training.plan.resident.size());
  EXPECT_GE(fail_construction(config, false, expected), 2);
  EXPECT_GE(fail_construction(config, true, expected), 4);
  EXPECT_GE(chunks, 4);
}

// The warm-up step plans again: where memory for that is refused, the plan of before serves on.
TEST(TrainerMemory, PlanningAgainMayFailAtAnyReservation) {
  const ModelFolder folder(tiny_model("qwen2"));
  TrainConfig config = tiny_config(folder);
  const Outcome expected = train(config, 4);
  config.device_memory = device_budgets(config, 3)[1];
  for (const bool of_device : {false, true}) {
    bool reached = true;
    for (int64_t n = 1; reached; ++n) {
      Trainer trainer(config, 4);
      Outcome outcome;
      {
        const FaultPlan::Session faults(nth_reservation(of_device, n));
        take_steps(trainer, 1, outcome);
        reached = faults.fired() > 0;
      }
      take_steps(trainer, 4, outcome);
      outcome.state = state_of(trainer);
      EXPECT_TRUE(outcome == expected) << "reservation " << n;
    }
  }
}

// Both where the new budget is settled and where the old one is settled again.
TEST(TrainerMemory, AChangeOfBudgetMayFailAtAnyReservation) {
  const ModelFolder folder(tiny_model("llama_tied"));
  TrainConfig config = tiny_config(folder);
  const Outcome expected = train(config, 6);
  const std::vector<int64_t> budgets = device_budgets(config, 4);
  for (const auto& [from, to] : {std::pair(budgets[2], budgets[0]), {budgets[0], budgets[2]}}) {
    config.device_memory = from;
    for (const bool of_device : {false, true}) {
      bool failed = true;
      for (int64_t n = 1; failed; ++n) {
        Tiers tiers;
        Trainer trainer(config, 6, tiers.take());
        Outcome outcome;
        take_steps(trainer, 2, outcome);
        failed = false;
        try {
          const FaultPlan::Session faults(nth_reservation(of_device, n));
          trainer.set_budget(to, kAmple);
        } catch (const Error& error) {
          EXPECT_EQ(error.kind(), ErrorKind::kDoesNotFit);
          failed = true;
        }
        if (failed) {
          EXPECT_EQ(trainer.config().device_memory, from);
          // A step that cannot settle the old plan is not taken, and can be taken later.
          {
            const FaultPlan::Session faults(nth_reservation(true, 1));
            EXPECT_THROW(trainer.step(tokens_of(trainer, 2)), Error);
          }
          EXPECT_EQ(trainer.steps_done(), 2);
          take_steps(trainer, 4, outcome);
          EXPECT_LE(tiers.device->peak(), from);
          trainer.set_budget(to, kAmple);
        }
        take_steps(trainer, 6, outcome);
        EXPECT_LE(tiers.device->peak(), to);
        outcome.state = state_of(trainer);
        EXPECT_TRUE(outcome == expected) << from << " to " << to << ", reservation " << n;
      }
    }
  }
}

TEST(TrainerMemory, NothingIsLeftInTheTiers) {
  const ModelFolder folder(tiny_model("gpt2"));
  TrainConfig config = tiny_config(folder);
  config.device_memory = device_budgets(config, 3)[1];
  for (int round = 0; round < 2; ++round) {
    Tiers tiers;
    auto trainer = std::make_unique<Trainer>(config, 3, tiers.take());
    Outcome outcome;
    take_steps(*trainer, 3, outcome);
    const Plan& plan = trainer->plan().training.plan;
    EXPECT_EQ(tiers.device->used(), plan.device.peak);
    EXPECT_EQ(tiers.host->used(), plan.host.peak);
  }
}

TEST(TrainerMemory, AStepThatIsNotFiniteLeavesTheStateAlone) {
  const ModelFolder folder(tiny_model("qwen2"));
  TrainConfig config = tiny_config(folder);
  config.learning_rate = 1e30;
  config.max_grad_norm = 0;
  config.optimizer = OptimizerKind::kSgd;
  for (const int64_t budget : device_budgets(config, 3)) {
    config.device_memory = budget;
    Trainer trainer(config, 8);
    std::vector<float> before;
    const auto run = [&] {
      for (int64_t step = 0; step < 8; ++step) {
        before = state_of(trainer);
        trainer.step(tokens_of(trainer, step));
      }
    };
    EXPECT_THROW(run(), Error);
    const int64_t taken = trainer.steps_done();
    EXPECT_TRUE(state_of(trainer) == before);
    EXPECT_THROW(trainer.step(tokens_of(trainer, taken)), Error);  // the same again
    EXPECT_EQ(trainer.steps_done(), taken);
    EXPECT_TRUE(state_of(trainer) == before);
  }
}

// The whole path with each memory taken away in turn: a kernel that reads the host, or host code
// that reads the device, ends this test.
TEST(TrainerMemory, TheGuardFindsNothing) {
  const ModelFolder folder(tiny_model("gpt2"));
  TrainConfig config = tiny_config(folder);
  config.gradient_accumulation_steps = 2;
  config.threads = 2;
  const Outcome expected = train(config, 6);
  const MemoryGuard::Session guard;
  for (const int64_t budget : device_budgets(config, 3)) {
    config.device_memory = budget;
    TemporaryFolder out;
    Outcome outcome;
    {
      Trainer trainer(config, 6);
      take_steps(trainer, 3, outcome);
      trainer.evaluate(tokens_of(trainer, 0));
      save_checkpoint(trainer, out.path() + "/checkpoint-3");
      Outcome ignored;
      take_steps(trainer, 4, ignored);
    }
    Trainer trainer(config, 6);
    load_checkpoint(trainer, out.path() + "/checkpoint-3");
    take_steps(trainer, 4, outcome);
    trainer.set_budget(kAmple, kAmple);
    take_steps(trainer, 6, outcome);
    outcome.state = state_of(trainer);
    EXPECT_TRUE(outcome == expected) << budget;
    save_model(trainer, out.path() + "/final");
  }
}

TEST(TrainerMemory, EvaluationLeavesNoTrace) {
  const ModelFolder folder(tiny_model("llama_tied"));
  TrainConfig config = tiny_config(folder);
  Trainer plain(config, 6);
  const double expected_loss = plain.evaluate(tokens_of(plain, 3));
  Outcome expected;
  take_steps(plain, 6, expected);
  const double expected_last = plain.evaluate(tokens_of(plain, 3));
  for (const int64_t budget : device_budgets(config, 3)) {
    config.device_memory = budget;
    Trainer trainer(config, 6);
    Outcome outcome;
    for (int64_t step = 1; step <= 6; ++step) {
      const double loss = trainer.evaluate(tokens_of(trainer, 3));
      if (step == 1) {
        EXPECT_EQ(loss, expected_loss);
      }
      take_steps(trainer, step, outcome);
    }
    EXPECT_EQ(trainer.evaluate(tokens_of(trainer, 3)), expected_last);
    EXPECT_TRUE(outcome == expected);
  }
}

}  // namespace
}  // namespace hetmem
