#include "runtime/deepspeed_config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "core/error.h"
#include "runtime/schedule.h"

namespace hetmem {
namespace {

using Options = std::map<std::string, std::string>;

Options mapped(const std::string& json, const OptionValues& given = {}) {
  Options options;
  for (const MappedOption& option : map_deepspeed(json, "ds.json", given).options) {
    options[option.option] = option.value + (option.implied ? " (implied)" : "");
  }
  return options;
}

std::vector<std::string> notes(const std::string& json, const OptionValues& given = {}) {
  return map_deepspeed(json, "ds.json", given).notes;
}

void expect_refused(const std::string& json, const std::vector<std::string>& says,
                    const OptionValues& given = {}) {
  try {
    map_deepspeed(json, "ds.json", given);
    FAIL() << "took " << json;
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kBadInput);
    for (const std::string& text : says) {
      EXPECT_NE(std::string(error.what()).find(text), std::string::npos)
          << error.what() << " does not say " << text;
    }
  }
}

// ZeRO-Offload with everything written out, as DeepSpeed's own pages do it.
TEST(DeepSpeedConfig, AWholeFile) {
  const std::string json = R"({
    "train_batch_size": 24, "gradient_accumulation_steps": 3,
    "optimizer": {"type": "AdamW", "params":
        {"lr": 3e-4, "betas": [0.85, 0.97], "eps": 1e-7, "weight_decay": 0.02}},
    "scheduler": {"type": "WarmupDecayLR", "params": {"total_num_steps": 400, "warmup_min_lr": 0,
        "warmup_max_lr": 3e-4, "warmup_num_steps": 40, "warmup_type": "linear"}},
    "gradient_clipping": 0.7, "bf16": {"enabled": false}, "fp16": {"enabled": false},
    "zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}})";
  EXPECT_EQ(mapped(json), (Options{{"gradient-accumulation-steps", "3"},
                                   {"batch-size", "8"},
                                   {"optimizer", "adamw"},
                                   {"learning-rate", "3e-04"},
                                   {"adam-beta1", "0.85"},
                                   {"adam-beta2", "0.97"},
                                   {"adam-epsilon", "1e-07"},
                                   {"weight-decay", "0.02"},
                                   {"lr-scheduler-type", "linear"},
                                   {"steps", "400"},
                                   {"warmup-steps", "40"},
                                   {"max-grad-norm", "0.7"},
                                   {"compute-dtype", "fp32"}}));
  ASSERT_EQ(notes(json).size(), 1U);
  EXPECT_NE(notes(json)[0].find("stage 2, optimizer on cpu"), std::string::npos) << notes(json)[0];
}

// The way of transformers: everything is "auto", so that the options stand.
TEST(DeepSpeedConfig, AutoLeavesTheOptions) {
  EXPECT_EQ(mapped(R"({
    "bf16": {"enabled": "auto"}, "fp16": {"enabled": "auto"},
    "optimizer": {"type": "AdamW", "params":
        {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"}},
    "scheduler": {"type": "WarmupLR", "params": {"warmup_min_lr": "auto", "warmup_max_lr": "auto",
        "warmup_num_steps": "auto"}},
    "gradient_accumulation_steps": "auto", "gradient_clipping": "auto",
    "train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto"})"),
            (Options{{"optimizer", "adamw"}, {"lr-scheduler-type", "constant_with_warmup"}}));
}

TEST(DeepSpeedConfig, ASectionHasTheDefaultsOfDeepSpeed) {
  EXPECT_EQ(mapped(R"({"optimizer": {"type": "FusedAdam"}})"),
            (Options{{"optimizer", "adamw"},
                     {"learning-rate", "0.001 (implied)"},
                     {"adam-beta1", "0.9 (implied)"},
                     {"adam-beta2", "0.999 (implied)"},
                     {"adam-epsilon", "1e-08 (implied)"},
                     {"weight-decay", "0 (implied)"}}));
  EXPECT_EQ(mapped(R"({"optimizer": {"type": "SGD", "params": {"lr": 0.1}}})"),
            (Options{{"optimizer", "sgd"},
                     {"learning-rate", "0.1"},
                     {"momentum", "0 (implied)"},
                     {"weight-decay", "0 (implied)"}}));
  const Options cosine =
      mapped(R"({"scheduler": {"type": "WarmupCosineLR", "params": {"total_num_steps": 90}}})");
  EXPECT_EQ(cosine, (Options{{"lr-scheduler-type", "cosine"},
                             {"min-lr-ratio", "1e-04 (implied)"},
                             {"steps", "90"},
                             {"warmup-steps", "1000 (implied)"}}));
}

TEST(DeepSpeedConfig, Optimizers) {
  for (const char* type : {"Adam", "adamw", "FusedAdam", "DeepSpeedCPUAdam"}) {
    EXPECT_EQ(mapped(R"({"optimizer": {"type": ")" + std::string(type) + R"("}})").at("optimizer"),
              "adamw");
  }
  const auto adam = [](const std::string& params) {
    return R"({"optimizer": {"type": "Adam", "params": {)" + params + "}}}";
  };
  EXPECT_EQ(mapped(adam(R"("adam_w_mode": false, "weight_decay": 0)")).at("weight-decay"), "0");
  EXPECT_EQ(mapped(adam(R"("torch_adam": true)")).at("weight-decay"), "0.01 (implied)");
  expect_refused(adam(R"("adam_w_mode": false, "weight_decay": 0.1)"), {"adam_w_mode"});
  expect_refused(adam(R"("adam_w_mode": false, "weight_decay": "auto")"), {"adam_w_mode"},
                 {{"weight-decay", {"0.1"}}});
  expect_refused(adam(R"("bias_correction": false)"), {"bias_correction", "false"});
  expect_refused(adam(R"("amsgrad": true)"), {"amsgrad"});
  expect_refused(adam(R"("max_grad_norm": 1.0)"), {"gradient_clipping"});
  expect_refused(R"({"optimizer": {"type": "Lamb"}})", {"Lamb", "AdamW", "SGD"});
  expect_refused(R"({"optimizer": {"params": {}}})", {"optimizer.type", "absent"});
  expect_refused(R"({"optimizer": {"type": "SGD", "params": {"nesterov": true}}})", {"nesterov"});
  expect_refused(R"({"optimizer": {"type": "SGD", "params": {"dampening": 0.1}}})", {"dampening"});
}

TEST(DeepSpeedConfig, TheBatchIsAProduct) {
  const auto batch = [](const std::string& train, const std::string& micro,
                        const std::string& accumulation) {
    std::string json = R"({"train_batch_size": )" + train;
    if (!micro.empty()) json += R"(, "train_micro_batch_size_per_gpu": )" + micro;
    if (!accumulation.empty()) json += R"(, "gradient_accumulation_steps": )" + accumulation;
    return json + "}";
  };
  const Options both{{"batch-size", "4"}, {"gradient-accumulation-steps", "8"}};
  EXPECT_EQ(mapped(batch("32", "4", "8")), both);
  EXPECT_EQ(mapped(batch("32", "4", "")), both);
  EXPECT_EQ(mapped(batch("32", "", "8")), both);
  EXPECT_EQ(mapped(batch("32", "4", R"("auto")")), both);
  EXPECT_EQ(mapped(batch("32", "", "")), (Options{{"batch-size", "32"}}));
  EXPECT_EQ(mapped(batch("32", R"("auto")", ""), {{"batch-size", {"16"}}}),
            (Options{{"gradient-accumulation-steps", "2"}}));
  expect_refused(batch("32", "4", "4"), {"32", "16", "train_micro_batch_size_per_gpu 4"});
  expect_refused(batch("32", "", "8"), {"--batch-size 2", "16"}, {{"batch-size", {"2"}}});
  expect_refused(batch("32", "5", ""), {"32", "multiple", "5"});
  expect_refused(batch("0", "", ""), {"train_batch_size"});
  expect_refused(batch("2.5", "", ""), {"train_batch_size", "2.5"});
}

// A file without a scheduler's own peak has the optimizer's rate, one with it has that.
TEST(DeepSpeedConfig, TheRateThatTheSchedulerHasWins) {
  const auto file = [](const std::string& type, const std::string& peak) {
    return R"({"optimizer": {"type": "AdamW", "params": {"lr": 0.002}}, "scheduler": {"type": ")" +
           type + R"(", "params": {"total_num_steps": 9, "warmup_type": "linear")" + peak + "}}}";
  };
  EXPECT_EQ(mapped(file("WarmupLR", "")).at("learning-rate"), "0.002");
  EXPECT_EQ(mapped(file("WarmupLR", R"(, "warmup_max_lr": "auto")")).at("learning-rate"), "0.002");
  EXPECT_EQ(mapped(file("WarmupLR", R"(, "warmup_max_lr": 0.5)")).at("learning-rate"), "0.5");
  EXPECT_EQ(mapped(file("WarmupDecayLR", "")).at("learning-rate"), "0.001 (implied)");
  EXPECT_EQ(mapped(file("WarmupCosineLR", "")).at("learning-rate"), "0.002");
  EXPECT_NE(notes(file("WarmupLR", R"(, "warmup_max_lr": 0.5)"))[0].find("gives way"),
            std::string::npos);
}

TEST(DeepSpeedConfig, Schedules) {
  const auto file = [](const std::string& type, const std::string& params) {
    return R"({"scheduler": {"type": ")" + type + R"(", "params": {)" + params + "}}}";
  };
  expect_refused(file("OneCycle", ""), {"OneCycle", "WarmupDecayLR"});
  expect_refused(file("WarmupLR", R"("warmup_type": "log")"), {"warmup_type", "log", "linear"});
  expect_refused(file("WarmupLR", R"("warmup_min_lr": 1e-6)"), {"warmup_min_lr", "1e-06"});
  expect_refused(file("WarmupLR", R"("warmup_num_steps": 0)"), {"warmup_num_steps"});
  expect_refused(file("WarmupDecayLR", ""), {"total_num_steps", "absent"});
  expect_refused(file("WarmupCosineLR", R"("total_num_steps": 9, "warmup_min_ratio": 0.1)"),
                 {"warmup_min_ratio"});
  // Its default is another curve, which matters where there is a warm-up.
  const std::string silent = file("WarmupLR", R"("warmup_num_steps": "auto")");
  EXPECT_TRUE(notes(silent).empty());
  EXPECT_NE(notes(silent, {{"warmup-steps", {"10"}}}).at(0).find("warmup_type"), std::string::npos);
  // DeepSpeed takes a warm-up of 1 as one of 2.
  EXPECT_EQ(mapped(file("WarmupLR", R"("warmup_num_steps": 1)")).at("warmup-steps"), "2");
}

// The rates beside DeepSpeed's formulas, at its iterations (lr_schedules.py, _get_gamma and
// get_lr_ratio; the cosine counts its iteration one further).
TEST(DeepSpeedConfig, RatesAreThoseOfDeepSpeed) {
  constexpr int64_t kTotal = 20;
  constexpr double kWarmup = 4;
  const auto config_of = [](const std::string& type) {
    TrainConfig config;
    config.warmup_steps = kWarmup;
    const Options options = mapped(
        R"({"scheduler": {"type": ")" + type +
        R"(", "params": {"total_num_steps": 20, "warmup_num_steps": 4, "cos_min_ratio": 0.1}}})");
    for (const char* name : {"lr-scheduler-type", "warmup-steps", "min-lr-ratio"}) {
      if (options.count(name) == 0) continue;
      find_option(train_options(), name)->set(config, {options.at(name)});
    }
    return config;
  };
  const TrainConfig constant = config_of("WarmupLR");
  const TrainConfig linear = config_of("WarmupDecayLR");
  const TrainConfig cosine = config_of("WarmupCosineLR");
  for (int64_t step = 0; step < kTotal; ++step) {
    const auto at = static_cast<double>(step);
    const double warm = at / kWarmup;
    const double decay = (kTotal - at) / (kTotal - kWarmup);
    const double iteration = at - 1;
    const double half =
        (1 + std::cos(3.14159265358979323846 * (iteration - kWarmup + 1) / (kTotal - kWarmup))) / 2;
    const bool warming = at < kWarmup;
    EXPECT_DOUBLE_EQ(schedule_factor(constant, step, kTotal), warming ? warm : 1.0);
    EXPECT_DOUBLE_EQ(schedule_factor(linear, step, kTotal), warming ? warm : decay);
    EXPECT_DOUBLE_EQ(schedule_factor(cosine, step, kTotal), warming ? warm : 0.1 + 0.9 * half);
  }
}

TEST(DeepSpeedConfig, PrecisionAndOffload) {
  EXPECT_EQ(mapped(R"({"bf16": {"enabled": true}})"), (Options{{"compute-dtype", "bf16"}}));
  EXPECT_EQ(mapped(R"({"bfloat16": {"enabled": true}})"), (Options{{"compute-dtype", "bf16"}}));
  expect_refused(R"({"fp16": {"enabled": true, "loss_scale": 0}})", {"fp16.enabled", "bf16"});
  expect_refused(R"({"amp": {"enabled": true}})", {"amp.enabled"});
  expect_refused(R"({"zero_optimization": {"stage": 4}})", {"zero_optimization.stage", "4"});
  for (const char* section : {"offload_param", "offload_optimizer"}) {
    const std::string begin = R"({"zero_optimization": {"stage": 3, ")" + std::string(section);
    EXPECT_EQ(mapped(begin + R"(": {"device": "nvme", "nvme_path": "/nvme"}}})"),
              (Options{{"disk", "/nvme"}}));
    expect_refused(begin + R"(": {"device": "nvme"}}})", {section, "nvme_path", "absent"});
    expect_refused(begin + R"(": {"device": "tpu"}}})", {section, "tpu", "cpu"});
    expect_refused(begin + R"(": {"device": 3}}})", {section, "3", "text"});
  }
  EXPECT_EQ(mapped(R"({"zero_optimization": {
      "offload_param": {"device": "nvme", "nvme_path": "/a"},
      "offload_optimizer": {"device": "nvme", "nvme_path": "/b"}}})"),
            (Options{{"disk", "/a,/b"}}));
  EXPECT_NE(notes(R"({"zero_optimization": {"stage": 2, "cpu_offload": true}})")[0].find(
                "optimizer on cpu"),
            std::string::npos);
  EXPECT_EQ(mapped(R"({"tensorboard": {"enabled": true}})"), (Options{{"tensorboard", "true"}}));
}

TEST(DeepSpeedConfig, EveryKeyWithoutAMeaningIsNamed) {
  const std::vector<std::string> found = notes(R"({
    "steps_per_print": 2000, "wall_clock_breakdown": false, "fp16": {"enabled": false, "hysteresis": 2},
    "zero_optimization": {"stage": 3, "overlap_comm": true, "reduce_bucket_size": "auto",
        "offload_param": {"device": "cpu", "pin_memory": true, "nvme_path": null}},
    "optimizer": {"type": "Adam", "legacy_fusion": true, "params": {"lr": 1e-3, "fused": true}},
    "activation_checkpointing": {"partition_activations": true}, "tensorboard": {"job_name": "j"}})");
  ASSERT_EQ(found.size(), 2U);
  EXPECT_EQ(
      found[1],
      "ds.json: without a meaning here: steps_per_print, wall_clock_breakdown, "
      "fp16.hysteresis, zero_optimization.overlap_comm, zero_optimization.reduce_bucket_size, "
      "zero_optimization.offload_param.pin_memory, zero_optimization.offload_param.nvme_path, "
      "optimizer.legacy_fusion, optimizer.params.fused, activation_checkpointing, "
      "tensorboard.job_name");
}

TEST(DeepSpeedConfig, WhatIsOfAWrongTypeIsRefused) {
  for (const auto& [json, key] : std::vector<std::pair<std::string, std::string>>{
           {R"([])", "object"},
           {R"({)", "JSON"},
           {R"({"gradient_clipping": "1.0"})", "gradient_clipping"},
           {R"({"gradient_clipping": -1})", "gradient_clipping"},
           {R"({"gradient_clipping": null})", "gradient_clipping"},
           {R"({"optimizer": "AdamW"})", "\"optimizer\""},
           {R"({"optimizer": {"type": 3}})", "optimizer.type"},
           {R"({"optimizer": {"type": "Adam", "params": []}})", "optimizer.params"},
           {R"({"optimizer": {"type": "Adam", "params": {"lr": true}}})", "optimizer.params.lr"},
           {R"({"optimizer": {"type": "Adam", "params": {"betas": [0.9]}}})", "betas"},
           {R"({"optimizer": {"type": "Adam", "params": {"betas": [0.9, "x"]}}})", "betas"},
           {R"({"bf16": true})", "bf16"},
           {R"({"bf16": {"enabled": 1}})", "bf16.enabled"},
           {R"({"scheduler": {"type": "WarmupLR", "params": {"warmup_num_steps": 1e300}}})",
            "warmup_num_steps"},
           {R"({"zero_optimization": true})", "zero_optimization"},
           {R"({"zero_optimization": {"stage": "3"}})", "zero_optimization.stage"},
           {R"({"zero_optimization": {"offload_param": "cpu"}})", "offload_param"},
           {R"({"fp16": {"enabled": false}, "fp16": {"enabled": false}})", "fp16"}}) {
    expect_refused(json, {"ds.json", key});
  }
}

}  // namespace
}  // namespace hetmem
