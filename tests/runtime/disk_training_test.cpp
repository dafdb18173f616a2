// Training whose chunks are on disk: the numbers, the budgets and the traffic of memory alone, and
// errors of the disk that name what is lost.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <thread>

#include "core/error.h"
#include "device/cpu/memory_guard.h"
#include "runtime/checkpoint.h"
#include "tests/offload/disk_fixture.h"
#include "tests/runtime/tiny_models.h"

namespace hetmem {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kSteps = 5;
constexpr int64_t kStaging = int64_t{60} << 20;  // of one folder

TrainConfig disk_config(const ModelFolder& model, const TemporaryFolder& disk) {
  TrainConfig config = tiny_config(model);
  config.disk = {disk.path()};
  config.disk_memory = int64_t{64} << 20;
  config.host_memory = 0;
  return config;
}

// The state that does not stay on a device of this budget.
int64_t streamed_bytes(TrainConfig config) {
  config.disk_memory = 0;
  config.host_memory = kAmple;
  return plan_of(config).training.plan.host.peak;
}

class OverTheDisk : public testing::TestWithParam<std::string> {};

TEST_P(OverTheDisk, NoBitDependsOnWhereChunksAre) {
  const ModelFolder model(tiny_model(GetParam()));
  const std::string dtype = GetParam() == "gpt2" ? "fp32" : "bf16";
  TrainConfig config = tiny_config(model);
  config.compute_dtype = dtype;
  config.gradient_accumulation_steps = 2;
  const Outcome expected = train(config, kSteps);
  ASSERT_NE(expected.losses.front(), expected.losses.back());
  const TemporaryFolder disk;
  int run = 0;
  int64_t on_disk = 0;
  for (const int64_t budget : device_budgets(config, 2)) {
    TrainConfig small = disk_config(model, disk);
    small.compute_dtype = dtype;
    small.gradient_accumulation_steps = 2;
    small.device_memory = budget;
    const int64_t streamed = streamed_bytes(small);
    for (const int64_t host : {int64_t{0}, kStaging + streamed / 3}) {
      small.host_memory = host;
      small.encrypt_disk = run % 2 == 1;
      small.threads = 1 + run++ % 3;
      on_disk += plan_of(small).training.plan.disk.peak;
      EXPECT_TRUE(train(small, kSteps) == expected)
          << dtype << ", device " << budget << ", host " << host;
    }
  }
  EXPECT_GT(on_disk, 0);
  EXPECT_TRUE(fs::is_empty(disk.path()));
}

INSTANTIATE_TEST_SUITE_P(DiskTraining, OverTheDisk, testing::Values("gpt2", "llama", "qwen3_tied"),
                         [](const auto& model) { return model.param; });

TEST(DiskTraining, TwoFoldersOtherOptimizersFrozenWeightsAndTheMemoryGuard) {
  const ModelFolder model(tiny_model("qwen3"));
  for (const OptimizerKind optimizer : {OptimizerKind::kSgd, OptimizerKind::kAdamW8Bit}) {
    const TemporaryFolder disk;
    fs::create_directories(disk.path() + "/a");
    fs::create_directories(disk.path() + "/b");
    TrainConfig config = tiny_config(model);
    config.freeze = "embed|layers.0.self_attn";
    config.optimizer = optimizer;
    const Outcome expected = train(config, kSteps);
    config.device_memory = device_budgets(config, 2).front();
    config.disk = {disk.path() + "/a", disk.path() + "/b"};
    config.disk_memory = int64_t{64} << 20;
    config.host_memory = 0;
    const MemoryGuard::Session guard;
    EXPECT_TRUE(train(config, kSteps) == expected);
  }
}

// To the byte, but for what the steps on a new plan bring first.
TEST(DiskTraining, WhatIsPlannedIsUsedAndMoved) {
  const ModelFolder model(tiny_model("llama"));
  const TemporaryFolder disk;
  TrainConfig config = disk_config(model, disk);
  for (const int64_t budget : device_budgets(config, 3)) {
    config.device_memory = budget;
    config.host_memory = kStaging + streamed_bytes(config) / 2;
    Trainer trainer(config, kSteps);
    int steady = 0;
    for (int64_t step = 0; step < kSteps; ++step) {
      const Plan plan = trainer.plan().training.plan;
      const StepReport report = trainer.step(tokens_of(trainer, step));
      EXPECT_EQ(report.disk.by_kind, plan.disk.by_kind);
      EXPECT_EQ(report.host.by_kind, plan.host.by_kind);
      EXPECT_EQ(report.host.peak, plan.host.peak);
      EXPECT_LE(report.host.peak, config.host_memory);
      EXPECT_EQ(report.disk.budget, config.disk_memory);
      EXPECT_EQ(report.traffic.disk_write, plan.traffic.disk_write);
      EXPECT_GE(report.traffic.disk_read, plan.traffic.disk_read);
      steady += report.traffic.disk_read == plan.traffic.disk_read ? 1 : 0;
    }
    EXPECT_GE(steady, 2);
  }
}

TEST(DiskTraining, BudgetsChangeBetweenSteps) {
  const ModelFolder model(tiny_model("gpt2"));
  const TemporaryFolder disk;
  TrainConfig config = disk_config(model, disk);
  config.device_memory = kAmple;
  const Outcome expected = train(config, kSteps);
  const std::vector<int64_t> budgets = device_budgets(config, 3);
  config.device_memory = budgets[0];
  Trainer trainer(config, kSteps);
  Outcome outcome;
  int64_t step = 0;
  const int64_t streamed = streamed_bytes(config);
  for (const auto& [device, host] : {std::pair{budgets[0], int64_t{0}},
                                     {budgets[1], kStaging + streamed},
                                     {budgets[2], int64_t{0}},
                                     {budgets[0], kStaging + streamed / 2},
                                     {budgets[0], int64_t{0}}}) {
    trainer.set_budget(device, host);
    take_steps(trainer, ++step, outcome);
  }
  take_steps(trainer, kSteps, outcome);
  outcome.state = state_of(trainer);
  EXPECT_TRUE(outcome == expected);
}

// A snapshot reads chunks on disk while training brings them; their steps wait for it.
TEST(DiskTraining, ACheckpointIsWrittenBesideIt) {
  const ModelFolder model(tiny_model("gpt2"));
  const TemporaryFolder disk;
  TrainConfig config = disk_config(model, disk);
  config.device_memory = device_budgets(config, 2).front();
  Trainer plain(config, kSteps);
  Outcome expected;
  take_steps(plain, 3, expected);
  const std::vector<float> saved = state_of(plain);
  take_steps(plain, kSteps, expected);
  expected.state = state_of(plain);

  Trainer trainer(config, kSteps);
  Outcome outcome;
  take_steps(trainer, 3, outcome);
  const auto snapshot = trainer.snapshot();
  std::vector<float> read;
  std::thread reader([&, tensors = trainer.state()] {
    for (size_t t = 0; t < tensors.size(); ++t) {
      for (int list = 0; list <= tensors[t].moments; ++list) {
        snapshot->read(
            static_cast<ChunkList>(list), static_cast<int>(t),
            [&](const float* data, int64_t n) { read.insert(read.end(), data, data + n); });
      }
    }
  });
  take_steps(trainer, kSteps, outcome);
  reader.join();
  outcome.state = state_of(trainer);
  EXPECT_TRUE(outcome == expected);
  EXPECT_TRUE(read == saved);
}

// The one file of the one run in a folder.
std::string file_in(const TemporaryFolder& disk) {
  for (const auto& entry : fs::recursive_directory_iterator(disk.path())) {
    if (entry.is_regular_file() && entry.file_size() > 0) return entry.path();
  }
  return "";
}

TEST(DiskTraining, ADamagedChunkEndsTheRunAndIsNamed) {
  const ModelFolder model(tiny_model("llama"));
  for (const bool encrypt : {false, true}) {
    const TemporaryFolder disk;
    TrainConfig config = disk_config(model, disk);
    config.device_memory = device_budgets(config, 2).front();
    config.encrypt_disk = encrypt;
    Trainer trainer(config, kSteps);
    trainer.step(tokens_of(trainer, 0));
    trainer.step(tokens_of(trainer, 1));
    const std::string path = file_in(disk);
    ASSERT_NE(path, "");
    const auto blocks = static_cast<int64_t>(fs::file_size(path)) / 4096;
    for (int64_t block = 0; block < blocks; ++block) {
      flip_bit_on_disk(path, block * 4096 * 8 + 5);
    }
    const std::string text = error_of(ErrorKind::kCorrupt, [&] {
      for (int64_t step = 2; step < kSteps; ++step) trainer.step(tokens_of(trainer, step));
    });
    EXPECT_TRUE(contains(text, "chunk ")) << text;
    EXPECT_TRUE(contains(text, "page 0")) << text;
    // What was lost stays lost: nothing goes on with what the failed step left.
    EXPECT_EQ(error_of(ErrorKind::kCorrupt, [&] { trainer.step(tokens_of(trainer, 3)); }), text);
    EXPECT_EQ(error_of(ErrorKind::kCorrupt, [&] { state_of(trainer); }), text);
    EXPECT_EQ(error_of(ErrorKind::kCorrupt, [&] { trainer.snapshot(); }), text);
    EXPECT_EQ(error_of(ErrorKind::kCorrupt, [&] { trainer.set_budget(kAmple, 0); }), text);
  }
}

TEST(DiskTraining, FoldersArePrivateAndWhatDoesNotFitIsRefused) {
  const ModelFolder model(tiny_model("llama"));
  const TemporaryFolder disk;
  TrainConfig config = disk_config(model, disk);
  const std::vector<int64_t> budgets = device_budgets(config, 2);
  config.device_memory = budgets.front();
  {
    const Trainer trainer(config, kSteps);
    struct stat status {};
    for (const auto& entry : fs::directory_iterator(disk.path())) {
      ASSERT_EQ(::stat(entry.path().c_str(), &status), 0);
      EXPECT_EQ(status.st_mode & 07777, 0700U);
    }
    EXPECT_NE(file_in(disk), "");
  }
  EXPECT_TRUE(fs::is_empty(disk.path()));
  config.disk_memory = (int64_t{2} << 20) + 3 * 4096;  // a page and a block are margin
  error_of(ErrorKind::kDoesNotFit, [&] { const Trainer trainer(config, kSteps); });
  config.disk_memory = int64_t{1} << 60;
  config.disk = {disk.path() + "/none"};
  error_of(ErrorKind::kBadInput, [&] { const Trainer trainer(config, kSteps); });
  EXPECT_TRUE(fs::is_empty(disk.path()));
}

}  // namespace
}  // namespace hetmem
