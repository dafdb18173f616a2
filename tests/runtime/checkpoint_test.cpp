// Checkpoints written beside training: what is written is the state at its step, whatever happens
// meanwhile, and a checkpoint that cannot be written leaves the one before as it was.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <thread>

#include "core/error.h"
#include "core/fault_plan.h"
#include "device/cpu/memory_guard.h"
#include "io/file.h"
#include "io/json.h"
#include "io/manifest.h"
#include "runtime/checkpoint_writer.h"
#include "runtime/schedule.h"
#include "tests/runtime/tiny_models.h"

namespace hetmem {
namespace {

namespace fs = std::filesystem;

// Past the warm-up, so that nothing is planned again in the steps that follow.
constexpr int64_t kSaved = 3;
constexpr int64_t kLast = 6;

std::map<std::string, std::string> files_of(const std::string& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    files[entry.path().filename().string()] = read_text_file(entry.path().string());
  }
  return files;
}

const DataPosition& some_data() {
  static const DataPosition data{{4001, "0123"}, 0};
  return data;
}

// The checkpoint of a run that stands still while it is written, and the run's later outcome.
struct Expected {
  explicit Expected(const TrainConfig& config) {
    Trainer trainer(config, kLast);
    take_steps(trainer, kSaved, outcome);
    save_checkpoint(trainer, folder.path() + "/c", &some_data());
    take_steps(trainer, kLast, outcome);
    outcome.state = state_of(trainer);
    files = files_of(folder.path() + "/c");
  }
  TemporaryFolder folder;
  Outcome outcome;
  std::map<std::string, std::string> files;
};

int64_t host_peak(const TrainConfig& config) { return plan_of(config).training.plan.host.peak; }

TrainConfig middle_config(const ModelFolder& folder) {
  TrainConfig config = tiny_config(folder);
  config.device_memory = device_budgets(config, 3)[1];
  return config;
}

// Two steps are taken when the reader has come to tensor t, for each t. One thread does all, so
// that the order is what it is meant to be.
TEST(Checkpoint, IsWhatItWasWhereverTheWriterIsWhenTrainingGoesOn) {
  for (const char* name : {"gpt2", "qwen3_tied"}) {
    const ModelFolder folder(tiny_model(name));
    TrainConfig config = tiny_config(folder);
    int64_t spared = 0;
    for (const int64_t budget : device_budgets(config, 2)) {
      config.device_memory = budget;
      const Expected expected(config);
      for (const size_t at : {0, 4, 9}) {
        Trainer trainer(config, kLast);
        Outcome outcome;
        take_steps(trainer, kSaved, outcome);
        const auto snapshot = trainer.snapshot();
        const TemporaryFolder out;
        write_checkpoint(
            checkpoint_head(trainer, &some_data()),
            [&](ChunkList list, size_t tensor, const FloatSink& sink) {
              if (tensor == at) take_steps(trainer, kLast - 1, outcome);
              snapshot->read(list, static_cast<int>(tensor), sink);
            },
            out.path() + "/c");
        EXPECT_EQ(snapshot->chunks_without_room(), 0);
        spared += snapshot->spared_bytes();
        take_steps(trainer, kLast, outcome);
        outcome.state = state_of(trainer);
        EXPECT_TRUE(outcome == expected.outcome) << name << ", tensor " << at;
        EXPECT_TRUE(files_of(out.path() + "/c") == expected.files) << name << ", tensor " << at;
      }
    }
    EXPECT_GT(spared, 0);
  }
}

// Copies that the steps beside the writer need, and those of the writer.
TEST(Checkpoint, ACopyOfAChunkMayFailAtAnyCall) {
  const ModelFolder folder(tiny_model("gpt2"));
  const TrainConfig config = middle_config(folder);
  const Expected expected(config);
  for (const std::string site : {"copy@within", "copy@to_host"}) {
    int64_t failures = 0;
    for (int64_t call = 1;; call += 1 + call / 8) {
      Trainer trainer(config, kLast);
      Outcome outcome;
      take_steps(trainer, kSaved, outcome);
      const auto snapshot = trainer.snapshot();
      const TemporaryFolder out;
      const FaultPlan::Session faults(site + ":" + std::to_string(call) + "=fail");
      try {
        write_checkpoint(
            checkpoint_head(trainer, &some_data()),
            [&](ChunkList list, size_t tensor, const FloatSink& sink) {
              if (tensor == 0) take_steps(trainer, kSaved + 1, outcome);
              snapshot->read(list, static_cast<int>(tensor), sink);
            },
            out.path() + "/c");
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::kStorage) << error.what();
        EXPECT_GT(faults.fired(), 0) << error.what();
        EXPECT_FALSE(fs::exists(out.path() + "/c"));
        ++failures;
        continue;
      }
      EXPECT_TRUE(files_of(out.path() + "/c") == expected.files) << site << " " << call;
      if (faults.fired() == 0) break;
    }
    EXPECT_GT(failures, 2) << site;
  }
}

// A run that was resumed from an older checkpoint keeps what it writes.
TEST(Checkpoint, TheOneJustWrittenIsKeptWhateverTheOthersAre) {
  const ModelFolder folder(tiny_model("llama"));
  Trainer trainer(tiny_config(folder), kLast);
  Outcome outcome;
  take_steps(trainer, 1, outcome);
  const TemporaryFolder out;
  for (const int64_t step : {2, 3, 4}) save_checkpoint(trainer, checkpoint_path(out.path(), step));
  CheckpointWriter checkpoints(trainer, out.path(), 2);
  checkpoints.begin(some_data());
  checkpoints.finish();
  EXPECT_EQ(checkpoints.newest(), 1);
  for (const int64_t step : {1, 2, 3, 4}) {
    EXPECT_EQ(fs::exists(checkpoint_path(out.path(), step)), step == 1 || step == 4) << step;
  }
}

// What is of later steps than the one that a run goes on from is of a branch that was left: it has
// other names, and none is taken twice.
TEST(Checkpoint, ThoseOfABranchThatWasLeftAreSetAside) {
  const TemporaryFolder out;
  const auto make = [&](int64_t step, const std::string& text) {
    fs::create_directory(checkpoint_path(out.path(), step));
    write_text_file(checkpoint_path(out.path(), step) + "/manifest.json", text);
  };
  for (const char* branch : {"first", "second"}) {
    for (const int64_t step : {8, 9, 10, 11}) make(step, branch);
    EXPECT_EQ(set_aside_checkpoints(out.path(), 9).size(), 2U);
    EXPECT_EQ(newest_checkpoint(out.path()), 9);
  }
  EXPECT_EQ(out.entries().size(), 6U);
  for (const int64_t step : {10, 11}) {
    const std::string path = checkpoint_path(out.path(), step) + ".abandoned";
    EXPECT_EQ(read_text_file(path + "/manifest.json"), "first");
    EXPECT_EQ(read_text_file(path + "-2/manifest.json"), "second");
  }
  prune_checkpoints(out.path(), 1, 9);
  EXPECT_EQ(out.entries().size(), 5U);  // none of those is pruned
  set_aside_checkpoints(out.path(), -1);
  EXPECT_EQ(newest_checkpoint(out.path()), -1);
  make(12, "third");
  const FaultPlan::Session faults("file.rename@.abandoned:1=EIO");
  EXPECT_THROW(set_aside_checkpoints(out.path(), 9), Error);
  EXPECT_EQ(newest_checkpoint(out.path()), 12);
}

// Without room for a copy the step waits for the reader, who waits here until it does.
TEST(Checkpoint, WithoutRoomTheStepWaits) {
  const ModelFolder folder(tiny_model("llama"));
  TrainConfig config = middle_config(folder);
  config.host_memory = host_peak(config);
  const Expected expected(config);
  Tier* host = nullptr;
  Trainer trainer(config, kLast, [&](Tier&, Tier& of_host) { host = &of_host; });
  Outcome outcome;
  take_steps(trainer, kSaved, outcome);
  const auto snapshot = trainer.snapshot();
  const TemporaryFolder out;
  std::thread writer([&, head = checkpoint_head(trainer, &some_data())] {
    write_checkpoint(
        head,
        [&](ChunkList list, size_t tensor, const FloatSink& sink) {
          while (tensor == 4 && snapshot->chunks_without_room() == 0) std::this_thread::yield();
          snapshot->read(list, static_cast<int>(tensor), sink);
        },
        out.path() + "/c");
    snapshot->stop();
  });
  take_steps(trainer, kLast, outcome);
  writer.join();
  outcome.state = state_of(trainer);
  EXPECT_GT(snapshot->chunks_without_room(), 0);
  EXPECT_GT(snapshot->waited_seconds(), 0);
  EXPECT_LE(host->peak(), config.host_memory);
  EXPECT_TRUE(outcome == expected.outcome);
  EXPECT_TRUE(files_of(out.path() + "/c") == expected.files);
}

// What an early step leaves is read where it is; where there is no memory for a copy of it, the
// next one of its chunk is not early. One thread does all: whatever waited would wait for ever.
TEST(Checkpoint, TwinsTakeNoMemoryThatASnapshotNeeds) {
  const ModelFolder folder(tiny_model("llama"));
  write_text_file(folder.path() + "/apart.json", R"({"gemm_flops":1e10,"bf16_flops":0,
    "memory_bandwidth":2e10,"host_bandwidth":4e8,"to_device":6e9,"to_host":6e9,
    "host_shares_compute":false})");
  TrainConfig config = tiny_config(folder);
  config.machine = folder.path() + "/apart.json";
  config.max_grad_norm = 0;
  config.always_overlap = true;
  config.device_memory = device_budgets(config, 2).front();
  const Expected expected(config);
  Tier* host = nullptr;
  Trainer trainer(config, kLast, [&](Tier&, Tier& of_host) { host = &of_host; });
  Outcome outcome;
  take_steps(trainer, kSaved, outcome);
  const Plan& plan = trainer.plan().training.plan;
  int64_t others = 0;  // bytes of chunks that have no twin
  for (size_t c = 0; c < plan.early.size(); ++c) {
    if (!plan.early[c]) others += trainer.access_trace().chunks[c].state_bytes();
  }
  ASSERT_GT(std::count(plan.early.begin(), plan.early.end(), true), 0);
  host->set_budget(host->used() + others);
  const auto snapshot = trainer.snapshot();
  const CheckpointHead head = checkpoint_head(trainer, &some_data());
  take_steps(trainer, kLast, outcome);
  const TemporaryFolder out;
  write_checkpoint(
      head,
      [&](ChunkList list, size_t tensor, const FloatSink& sink) {
        snapshot->read(list, static_cast<int>(tensor), sink);
      },
      out.path() + "/c");
  EXPECT_EQ(snapshot->spared_bytes(), others);
  outcome.state = state_of(trainer);
  EXPECT_TRUE(outcome == expected.outcome);
  EXPECT_TRUE(files_of(out.path() + "/c") == expected.files);
}

// A writer that gives up gives its memory back.
TEST(Checkpoint, SpareMemoryOfAReaderThatStopsIsGivenBack) {
  const ModelFolder folder(tiny_model("gpt2"));
  Tier* host = nullptr;
  Trainer trainer(middle_config(folder), kLast, [&](Tier&, Tier& of_host) { host = &of_host; });
  Outcome outcome;
  take_steps(trainer, kSaved, outcome);
  const int64_t before = host->used();
  const auto snapshot = trainer.snapshot();
  take_steps(trainer, kSaved + 1, outcome);
  EXPECT_EQ(host->used(), before + snapshot->spared_bytes());
  EXPECT_GT(snapshot->spared_bytes(), 0);
  snapshot->stop();
  EXPECT_EQ(host->used(), before);
}

// Whatever the steps beside a writer take (here, under the guard, a multiple of what was planned),
// they are not measured again.
TEST(Checkpoint, StepsBesideAWriterAreNoDrift) {
  const ModelFolder folder(tiny_model("gpt2"));
  Trainer trainer(middle_config(folder), 40);
  Outcome outcome;
  take_steps(trainer, kSaved, outcome);
  const std::vector<double> measured = trainer.access_trace().op_seconds;
  const auto snapshot = trainer.snapshot();
  const MemoryGuard::Session guard;
  take_steps(trainer, kSaved + 20, outcome);  // drift is judged by eight
  EXPECT_EQ(trainer.access_trace().op_seconds, measured);
}

// What training does on its own thread meanwhile, with the writer on another: in any order of the
// two the bytes are those. Here the sanitizers look, and the memory guard.
TEST(Checkpoint, TheWriterAndTrainingMeetInAnyOrder) {
  const ModelFolder folder(tiny_model("gpt2"));
  TrainConfig config = tiny_config(folder);
  const std::vector<int64_t> budgets = device_budgets(config, 3);
  for (const bool guarded : {false, true}) {
    std::optional<MemoryGuard::Session> guard;
    if (guarded) guard.emplace();
    for (const int64_t budget : budgets) {
      config.device_memory = budget;
      for (const bool roomy : {true, false}) {
        config.host_memory = kAmple;
        if (!roomy) config.host_memory = host_peak(config);
        const Expected expected(config);
        const TemporaryFolder out;
        Trainer trainer(config, kLast);
        Outcome outcome;
        take_steps(trainer, kSaved, outcome);
        CheckpointWriter checkpoints(trainer, out.path(), 0);
        checkpoints.begin(some_data());
        take_steps(trainer, kLast, outcome);
        checkpoints.finish();
        outcome.state = state_of(trainer);
        EXPECT_EQ(checkpoints.newest(), kSaved);
        EXPECT_EQ(checkpoints.use().written, 1);
        EXPECT_TRUE(outcome == expected.outcome) << budget;
        EXPECT_TRUE(files_of(out.path() + "/checkpoint-3") == expected.files) << budget;
      }
    }
  }
}

TEST(Checkpoint, ChunksThatMoveWaitForTheWriter) {
  const ModelFolder folder(tiny_model("qwen2"));
  TrainConfig config = tiny_config(folder);
  const std::vector<int64_t> budgets = device_budgets(config, 3);
  config.device_memory = budgets.front();
  const Expected expected(config);
  const TemporaryFolder out;
  Trainer trainer(config, kLast);
  Outcome outcome;
  take_steps(trainer, kSaved, outcome);
  std::string saved;
  {
    CheckpointWriter checkpoints(trainer, out.path(), 0);
    checkpoints.begin(some_data());
    trainer.set_budget(budgets.back(), kAmple);
    take_steps(trainer, kSaved + 1, outcome);
    trainer.set_budget(budgets.front(), kAmple);
  }  // waits for what is being written
  take_steps(trainer, kLast, outcome);
  outcome.state = state_of(trainer);
  EXPECT_TRUE(outcome == expected.outcome);
  EXPECT_TRUE(files_of(out.path() + "/checkpoint-3") == expected.files);
}

// Every call that makes a checkpoint fails once: the error is told, the checkpoint before is whole,
// nothing is left over, training goes on and the next one is written.
TEST(Checkpoint, WritingMayFailAtAnyCall) {
  const ModelFolder folder(tiny_model("qwen3"));
  const TrainConfig config = middle_config(folder);
  const Expected expected(config);
  int64_t failures = 0;
  for (const char* site :
       {"file.create@.tmp-", "file.write@.tmp-", "file.sync", "file.rename@checkpoint-",
        "copy@within", "copy@to_host", "file.open@.tmp-"}) {
    const bool copy = std::string(site).starts_with("copy");
    // Writes are many and alike: each of the first, then ever fewer.
    for (int64_t call = 1;; call += 1 + call / 8) {
      const TemporaryFolder out;
      Trainer trainer(config, kLast);
      Outcome outcome;
      CheckpointWriter checkpoints(trainer, out.path(), 1);
      take_steps(trainer, 2, outcome);
      checkpoints.begin(some_data());
      checkpoints.finish();
      take_steps(trainer, kSaved, outcome);
      bool failed = false;
      {
        const FaultPlan::Session faults(std::string(site) + ":" + std::to_string(call) +
                                        (copy            ? "=fail"
                                         : call % 2 == 0 ? "=EIO"
                                                         : "=ENOSPC"));
        checkpoints.begin(some_data());
        try {
          checkpoints.finish();
        } catch (const Error& error) {
          failed = true;
          EXPECT_EQ(error.kind(), ErrorKind::kStorage);
          EXPECT_NE(std::string(error.what()).find("checkpoint-"), std::string::npos);
        }
        EXPECT_EQ(failed, faults.fired() > 0) << site << " " << call;
      }
      if (!failed) break;
      ++failures;
      const int64_t newest = newest_checkpoint(out.path());
      EXPECT_GE(newest, 2);
      verify_manifest(checkpoint_path(out.path(), newest));
      if (newest == kSaved) {  // what failed was the end: its name is there, maybe not for good
        EXPECT_TRUE(files_of(out.path() + "/checkpoint-3") == expected.files);
      }
      for (const auto& entry : fs::directory_iterator(out.path())) {
        EXPECT_EQ(entry.path().string().find(".tmp-"), std::string::npos) << entry.path();
      }
      take_steps(trainer, kLast, outcome);
      outcome.state = state_of(trainer);
      EXPECT_TRUE(outcome == expected.outcome);
      checkpoints.begin(some_data());
      checkpoints.finish();
      EXPECT_EQ(newest_checkpoint(out.path()), kLast);
    }
  }
  EXPECT_GT(failures, 60);
}

TEST(Checkpoint, AFlippedBitOnTheWayToTheDiskIsFoundWhenItIsLoaded) {
  const ModelFolder folder(tiny_model("gpt2"));
  const TrainConfig config = tiny_config(folder);
  Trainer trainer(config, kLast);
  Outcome outcome;
  take_steps(trainer, kSaved, outcome);
  for (const char* file : {"config.json", "model.safetensors", "optimizer.safetensors",
                           "trainer_state.json", "manifest.json"}) {
    for (const char* call : {"1", "2", "3"}) {
      const TemporaryFolder out;
      bool fired = false;
      {
        const FaultPlan::Session faults(std::string("file.write@/") + file + ":" + call + "=flip");
        save_checkpoint(trainer, out.path() + "/c", &some_data());
        fired = faults.fired() > 0;
      }
      if (!fired) continue;
      try {
        Trainer other(config, kLast);
        load_checkpoint(other, out.path() + "/c", &some_data().identity);
        ADD_FAILURE() << file << " " << call;
      } catch (const Error& error) {
        EXPECT_TRUE(error.kind() == ErrorKind::kCorrupt || error.kind() == ErrorKind::kBadInput);
        EXPECT_NE(std::string(error.what()).find(out.path()), std::string::npos) << error.what();
      }
    }
  }
}

// Whatever the manifest and the state say, what comes is an Error that names the file.
TEST(Checkpoint, OneThatSaysWhatItCannotIsRefused) {
  const ModelFolder folder(tiny_model("gpt2"));
  Trainer trainer(tiny_config(folder), kLast);
  const TemporaryFolder out;
  const std::string path = out.path() + "/c";
  const auto expect = [&](const std::string& file, ErrorKind kind) {
    try {
      load_checkpoint(trainer, path);
      ADD_FAILURE() << read_text_file(path + "/" + file);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), kind) << error.what();
      EXPECT_NE(std::string(error.what()).find(path + "/" + file), std::string::npos)
          << error.what();
      EXPECT_NE(std::string(error.what()).find("use another checkpoint"), std::string::npos);
    }
  };
  save_checkpoint(trainer, path, &some_data());
  const std::string sum = "\"xxh3_128\": \"0\"";
  for (const std::string& entry :
       {std::string("3"), std::string("null"), "{" + sum + "}", "{\"bytes\": \"1\", " + sum + "}",
        "{\"bytes\": -1, " + sum + "}", "{\"bytes\": 1.5, " + sum + "}",
        std::string("{\"bytes\": 1, \"xxh3_128\": 0}")}) {
    const Json manifest = parse_json("{\"files\": {\"config.json\": " + entry + "}}", "test");
    write_text_file(path + "/manifest.json", manifest.dump(1) + "\n");
    expect("manifest.json", ErrorKind::kCorrupt);
  }
  for (const char* text : {"", "{", "[]\n", "{}\n", "{\n \"files\": 1\n}\n"}) {
    write_text_file(path + "/manifest.json", text);
    expect("manifest.json", ErrorKind::kCorrupt);
  }
  // Whole files by their sums, of numbers that no run counts to.
  const uint64_t too_many = uint64_t{1} << 63;
  const std::vector<std::pair<const char*, uint64_t>> wrong{
      {"step", too_many},   {"optimizer_count", too_many}, {"total_steps", too_many},
      {"tokens", too_many}, {"first_step", too_many},      {"first_step", 1}};  // none is taken
  for (const auto& [key, value] : wrong) {
    save_checkpoint(trainer, path, &some_data());
    Json state = read_json_file(path + "/trainer_state.json");
    (state["data"].contains(key) ? state["data"] : state)[key] = value;
    fs::remove(path + "/manifest.json");
    std::vector<FileSum> sums{write_summed_file(path, "trainer_state.json", state.dump() + "\n")};
    write_manifest(path, sums);
    expect("trainer_state.json", ErrorKind::kBadInput);
  }
}

TEST(Checkpoint, SaysWhereItsDataBeganAndItsRunEnds) {
  const ModelFolder folder(tiny_model("gpt2"));
  const TrainConfig config = tiny_config(folder);
  const TemporaryFolder out;
  Trainer trainer(config, kLast);
  Outcome outcome;
  take_steps(trainer, kSaved, outcome);
  const DataPosition position{{4001, "0123"}, 2};
  save_checkpoint(trainer, out.path() + "/c", &position);
  const ResumedFrom from = load_checkpoint(trainer, out.path() + "/c");
  ASSERT_TRUE(from.data);
  EXPECT_EQ(from.data->identity, position.identity);
  EXPECT_EQ(from.data->first, 2);
  EXPECT_EQ(from.total_steps, kLast);
  const Json state = read_json_file(out.path() + "/c/trainer_state.json");
  EXPECT_EQ(state["sampler"]["next_window"], trainer.sequences_per_step());  // of one step
  // One that was written before these were is of a run that had one set of data.
  Json older = state;
  older.erase("total_steps");
  older["data"].erase("first_step");
  fs::remove(out.path() + "/c/manifest.json");
  std::vector<FileSum> sums{
      write_summed_file(out.path() + "/c", "trainer_state.json", older.dump() + "\n")};
  write_manifest(out.path() + "/c", sums);
  const ResumedFrom old = load_checkpoint(trainer, out.path() + "/c");
  ASSERT_TRUE(old.data);
  EXPECT_EQ(old.data->first, 0);
  EXPECT_FALSE(old.total_steps);
  trainer.set_total_steps(kNoEnd);
  save_checkpoint(trainer, out.path() + "/c");
  const ResumedFrom again = load_checkpoint(trainer, out.path() + "/c");
  EXPECT_FALSE(again.data || again.total_steps);
}

TEST(Checkpoint, OfOtherDataIsRefused) {
  const ModelFolder folder(tiny_model("gpt2"));
  const TrainConfig config = tiny_config(folder);
  const TemporaryFolder out;
  Trainer trainer(config, kLast);
  save_checkpoint(trainer, out.path() + "/c", &some_data());
  load_checkpoint(trainer, out.path() + "/c", &some_data().identity);
  load_checkpoint(trainer, out.path() + "/c");
  for (const DataIdentity& other : {DataIdentity{4002, "0123"}, DataIdentity{4001, "0124"}}) {
    try {
      load_checkpoint(trainer, out.path() + "/c", &other);
      FAIL();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kBadInput);
      EXPECT_NE(std::string(error.what()).find("--data"), std::string::npos);
    }
  }
}

}  // namespace
}  // namespace hetmem
