#include "runtime/trace_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <functional>

#include "core/error.h"
#include "core/philox.h"
#include "io/file.h"
#include "io/json.h"
#include "runtime/trace_comparison.h"

namespace hetmem {
namespace {

constexpr const char* kModel = R"({"model_type":"qwen3","vocab_size":509,"hidden_size":64,
  "intermediate_size":96,"num_hidden_layers":3,"num_attention_heads":4,"num_key_value_heads":2,
  "head_dim":16,"max_position_embeddings":32,"rms_norm_eps":1e-6,"tie_word_embeddings":true})";
constexpr int64_t kSequence = 16;
constexpr TierBudgets kBudgets{int64_t{1} << 40, int64_t{1} << 40};

// A run's trace, its times made up so that no two ops have the same.
class TraceFile : public testing::Test {
 protected:
  TraceFile() : programs_(parse_model_config(kModel, "test"), config(), kSequence) {
    path_ = std::filesystem::temp_directory_path() /
            ("hetmem-trace-" + std::to_string(getpid()) + ".json");
    rates_.gemm_flops = 1e11;
    rates_.memory_bandwidth = 1e10;
    rates_.copies = {3e9, 1.0 / 3e-10};
    rates_.source = "measured";
  }
  ~TraceFile() override { std::filesystem::remove(path_); }

  static TrainConfig config() {
    TrainConfig config;
    config.batch_size = 2;
    config.gradient_accumulation_steps = 3;
    return config;
  }

  TraceRecord record() const {
    RunPlan run = plan_run(programs_, config(), rates_, kBudgets);
    AccessTrace& trace = run.training.trace.access;
    for (size_t i = 0; i < trace.op_seconds.size(); ++i) {
      trace.op_seconds[i] = 1e-4 / static_cast<double>(3 + philox(1, 0, i)[0] % 1000);
    }
    trace.chunks.front().host_step_seconds = 0.1;
    return record_trace(run, programs_.training,
                        report_of(run, programs_, config(), kSequence, rates_));
  }

  TraceRecord through_file(const TraceRecord& record) const {
    write_text_file(path_.string(), to_json(record));
    return read_trace(path_.string());
  }

  RunPrograms programs_;
  MachineRates rates_;
  std::filesystem::path path_;
};

void expect_same(const AccessTrace& a, const AccessTrace& b) {
  EXPECT_EQ(a.group, b.group);
  EXPECT_EQ(a.op_seconds, b.op_seconds);  // to the bit
  EXPECT_EQ(a.fixed_bytes, b.fixed_bytes);
  EXPECT_EQ(a.input_bytes, b.input_bytes);
  EXPECT_EQ(a.output_bytes, b.output_bytes);
  EXPECT_EQ(a.host_shares_compute, b.host_shares_compute);
  ASSERT_EQ(a.buffers.size(), b.buffers.size());
  for (size_t i = 0; i < a.buffers.size(); ++i) {
    EXPECT_EQ(a.buffers[i].bytes, b.buffers[i].bytes);
    EXPECT_EQ(a.buffers[i].kind, b.buffers[i].kind);
    EXPECT_EQ(a.buffers[i].first, b.buffers[i].first);
    EXPECT_EQ(a.buffers[i].last, b.buffers[i].last);
  }
  ASSERT_EQ(a.chunks.size(), b.chunks.size());
  for (size_t c = 0; c < a.chunks.size(); ++c) {
    const TraceChunk& x = a.chunks[c];
    const TraceChunk& y = b.chunks[c];
    EXPECT_EQ(x.weight_bytes, y.weight_bytes);
    EXPECT_EQ(x.gradient_bytes, y.gradient_bytes);
    EXPECT_EQ(x.optimizer_bytes, y.optimizer_bytes);
    EXPECT_EQ(x.reads, y.reads);
    ASSERT_EQ(x.writes.size(), y.writes.size());
    for (size_t i = 0; i < x.writes.size(); ++i) {
      EXPECT_EQ(x.writes[i].first, y.writes[i].first);
      EXPECT_EQ(x.writes[i].last, y.writes[i].last);
    }
    EXPECT_EQ(x.in_place, y.in_place);
    EXPECT_EQ(x.device_step_seconds, y.device_step_seconds);
    EXPECT_EQ(x.host_step_seconds, y.host_step_seconds);
    EXPECT_EQ(x.early_step_seconds, y.early_step_seconds);
  }
}

TEST_F(TraceFile, WhatIsReadIsWhatWasWritten) {
  const TraceRecord written = record();
  const TraceRecord read = through_file(written);
  expect_same(written.training, read.training);
  expect_same(written.evaluation, read.evaluation);
  EXPECT_EQ(written.op_names, read.op_names);
  EXPECT_EQ(written.op_names.size(), written.training.op_seconds.size());
  EXPECT_EQ(written.budgets.device, read.budgets.device);
  EXPECT_EQ(written.rates.copies.to_device, read.rates.copies.to_device);
  EXPECT_EQ(written.rates.copies.to_host, read.rates.copies.to_host);
  EXPECT_EQ(written.figures.parameters, read.figures.parameters);
  EXPECT_EQ(written.figures.chunks, read.figures.chunks);
  EXPECT_EQ(to_json(written), to_json(read));
}

// The trace alone gives the plan that model, configuration and rates give. (Of several
// micro-batches a run may choose other groups than the trace has.)
TEST_F(TraceFile, PlansAsTheRunDoes) {
  TrainConfig one = config();
  one.gradient_accumulation_steps = 1;
  const RunPrograms programs(parse_model_config(kModel, "test"), one, kSequence);
  const auto planned = [&](int64_t device) {
    return plan_run(programs, one, rates_, {device, kBudgets.host});
  };
  const RunPlan unlimited = planned(kBudgets.device);
  const TraceRecord record = through_file(record_trace(
      unlimited, programs.training, report_of(unlimited, programs, one, kSequence, rates_)));
  const int64_t most = unlimited.training.plan.device.peak;
  const int64_t least = unlimited.smallest_device;
  ASSERT_LT(least, most);
  for (const int64_t device : {most, (most + least) / 2, least, least - 1}) {
    const RunPlan run = planned(device);
    const RunPlan replayed = plan_trace(record, {device, kBudgets.host});
    EXPECT_EQ(run.fits(), device >= least);
    EXPECT_EQ(run.fits(), replayed.fits());
    EXPECT_EQ(run.smallest_device, replayed.smallest_device);
    EXPECT_EQ(run.training.plan.step_seconds, replayed.training.plan.step_seconds);
    EXPECT_EQ(run.training.plan.traffic, replayed.training.plan.traffic);
    EXPECT_EQ(run.training.plan.device.peak, replayed.training.plan.device.peak);
    EXPECT_EQ(run.training.plan.resident, replayed.training.plan.resident);
    EXPECT_EQ(run.evaluation.plan.step_seconds, replayed.evaluation.plan.step_seconds);
  }
}

TEST_F(TraceFile, RefusesWhatDoesNotFitTogether) {
  const Json good = Json::parse(to_json(record()));
  const auto refused = [&](const std::function<void(Json&)>& change) {
    Json bad = good;
    change(bad);
    write_text_file(path_.string(), bad.dump());
    try {
      const TraceRecord read = read_trace(path_.string());
      return false;
    } catch (const Error& error) {
      return error.kind() == ErrorKind::kBadInput;
    }
  };
  EXPECT_FALSE(refused([](Json&) {}));
  EXPECT_TRUE(refused([](Json& json) { json["version"] = 1; }));
  EXPECT_TRUE(refused([](Json& json) { json.erase("evaluation"); }));
  EXPECT_TRUE(refused([](Json& json) { json["training"]["ops"] = Json::array(); }));
  EXPECT_TRUE(refused([](Json& json) { json["training"]["ops"][0]["seconds"] = -1; }));
  EXPECT_TRUE(refused([](Json& json) { json["training"]["buffers"][0]["last"] = 1 << 20; }));
  EXPECT_TRUE(refused([](Json& json) { json["training"]["buffers"][0]["kind"] = "cheese"; }));
  EXPECT_TRUE(refused([](Json& json) { json["training"]["chunks"][0]["reads"] = {3, 2}; }));
  EXPECT_TRUE(refused([](Json& json) { json["training"]["chunks"][0]["writes"] = {{1}}; }));
  EXPECT_TRUE(refused([](Json& json) { json["training"]["chunks"][0]["weight_bytes"] = 1e30; }));
  EXPECT_TRUE(refused([](Json& json) { json["training"]["chunks"].erase(0); }));
}

TEST_F(TraceFile, ComparesTimesByOp) {
  const TraceRecord first = record();
  TraceRecord other = first;
  const std::string changed = "linear model.layers.0.self_attn.q_proj";
  int64_t calls = 0;
  for (size_t i = 0; i < other.op_names.size(); ++i) {
    if (other.op_names[i] != changed) continue;
    other.training.op_seconds[i] += 0.5;
    ++calls;
  }
  EXPECT_EQ(calls, config().gradient_accumulation_steps);  // once for each micro-batch
  const TraceComparison comparison = compare(first, other);
  EXPECT_EQ(comparison.ops.front().name, changed);
  EXPECT_NEAR(comparison.ops.front().difference(), 0.5 * static_cast<double>(calls), 1e-12);
  EXPECT_EQ(comparison.ops[1].difference(), 0.0);
  EXPECT_NEAR(comparison.other_op_seconds - comparison.op_seconds, 0.5 * static_cast<double>(calls),
              1e-12);
  EXPECT_EQ(comparison.optimizer_seconds, comparison.other_optimizer_seconds);
  EXPECT_NE(to_text(comparison).find(changed), std::string::npos);
}

}  // namespace
}  // namespace hetmem
