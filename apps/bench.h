// What the benchmarks of the binary share: a result beside its reference, taken in turns in one
// process, and how it is printed. See benchmarks/ for those that compare with other programs.
#pragma once

#include <chrono>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "runtime/train_config.h"

namespace hetmem::apps {

struct BenchOptions {
  bool json = false;
  int threads = 0;      // 0: all
  int64_t repeats = 5;  // the best of
  // gemm, step, memory: a model folder; empty: GPT-2 124M and SmolLM2-135M (memory: the latter)
  std::string model;
  int64_t batch_size = 0;
  int64_t sequence_length = 0;
  int64_t steps = 5;   // memory: measured ones at a budget
  int64_t points = 8;  // memory: budgets
  std::string tune;    // gemm: the file of rules to write
  // disk, memory: folders; none: disk takes the current one, memory keeps to two tiers
  std::vector<std::string> disk;
};

struct BenchResult {
  std::string name;
  double value = 0;
  std::string unit;
  std::string reference;
  double reference_value = 0;
  double ratio = 0;  // above 1: better than the reference
  nlohmann::ordered_json parameters;
};

// The two cases of the project's own figures, or the one that the options name.
struct BenchCase {
  std::string name;
  std::string config_json;
  int64_t batch;
  int64_t sequence;
  int64_t block_rows;  // of the vocabulary that the head takes at a time; 0: all
};
std::vector<BenchCase> bench_cases(const BenchOptions& options);

std::vector<BenchResult> bench_gemm(const BenchOptions& options);
std::vector<BenchResult> bench_adam(const BenchOptions& options);
std::vector<BenchResult> bench_step(const BenchOptions& options);
std::vector<BenchResult> bench_link(const BenchOptions& options);
// Chunks through the disk tier beside fio with the same blocks, depth and folders.
std::vector<BenchResult> bench_disk(const BenchOptions& options);
// Whole steps under device budgets from all that they need down to the smallest, and with a disk
// under host budgets down to none, each beside the speed without a limit; `repeats` rounds over all
// of them.
std::vector<BenchResult> bench_memory(const BenchOptions& options);
// Measures every shape of the cases under every rule of a small grid and writes the best.
void tune_gemm(const BenchOptions& options);

// Bytes a second of a plain in-place loop that reads four streams and writes three, on `threads`
// threads: what an optimizer step of AdamW can at best do.
double streaming_bandwidth(int threads, int64_t repeats);

// Seconds of one call.
template <typename Work>
double seconds_of(const Work& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

int bench(const std::string& name, const BenchOptions& options);

}  // namespace hetmem::apps
