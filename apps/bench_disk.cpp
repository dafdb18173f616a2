// bench disk: chunks through the disk tier, written one after the other and read again, beside fio
// on the same folders with blocks of the size and the depth that the tier uses.
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <functional>

#include "apps/bench.h"
#include "core/byte_size.h"
#include "core/error.h"
#include "core/philox.h"
#include "device/tier.h"
#include "io/file.h"
#include "offload/disk_tier.h"

namespace hetmem::apps {
namespace {

constexpr int64_t kChunkBytes = int64_t{32} << 20;
constexpr size_t kChunks = 32;
constexpr size_t kChunksUnderWay = 4;

struct Rates {
  double write = 0;  // bytes a second
  double read = 0;
};

void keep_best(Rates& best, const Rates& now) {
  best.write = std::max(best.write, now.write);
  best.read = std::max(best.read, now.read);
}

// A tier full of chunks, and memory for those under way.
class DiskBench {
 public:
  explicit DiskBench(const DiskOptions& options)
      : host_("host", kChunksUnderWay * kChunkBytes + DiskTier::staging_bytes(options)),
        disk_(options, host_) {
    for (size_t i = 0; i < kChunks; ++i) {
      slots_.push_back(disk_.allocate(std::to_string(i), kChunkBytes, MemoryKind::kOptimizer));
    }
    for (size_t i = 0; i < kChunksUnderWay; ++i) {
      memory_.emplace_back(host_, kChunkBytes, MemoryKind::kOptimizer, MemorySpace::kHost);
      auto* words = static_cast<uint32_t*>(memory_.back().data());
      for (int64_t at = 0; at < kChunkBytes / 16; ++at) {  // nothing that a disk could compress
        const auto bits = philox(1, i, static_cast<uint64_t>(at));
        std::copy(bits.begin(), bits.end(), words + 4 * at);
      }
    }
  }

  Rates measure() {
    ++generation_;
    const double written = seconds_of([&] {
      for_all([&](size_t i, void* memory) { return disk_.write(slots_[i], memory, generation_); });
    });
    const double read = seconds_of([&] {
      for_all([&](size_t i, void* memory) { return disk_.read(slots_[i], memory, generation_); });
    });
    constexpr double kBytes = static_cast<double>(kChunks) * static_cast<double>(kChunkBytes);
    return {kBytes / written, kBytes / read};
  }

  std::string description() const { return disk_.description(); }

 private:
  void for_all(const std::function<DiskOperation(size_t, void*)>& start) {
    std::array<DiskOperation, kChunksUnderWay> under_way;
    for (size_t i = 0; i < kChunks; ++i) {
      DiskOperation& operation = under_way.at(i % kChunksUnderWay);
      operation.wait();
      operation = start(i, memory_[i % kChunksUnderWay].data());
    }
    for (DiskOperation& operation : under_way) operation.wait();
  }

  Tier host_;
  DiskTier disk_;
  std::vector<DiskSlot> slots_;
  std::vector<Buffer> memory_;
  int64_t generation_ = 0;
};

// fio on files of its own, which stay for the next round.
class Fio {
 public:
  Fio(const DiskOptions& options, std::string engine)
      : options_(options),
        engine_(std::move(engine)),
        name_("hetmem-bench-" + std::to_string(getpid())) {}

  ~Fio() {
    std::error_code code;
    for (const std::string& folder : options_.folders) {
      for (size_t job = 0; job < options_.folders.size(); ++job) {
        std::filesystem::remove(file_in(folder) + "." + std::to_string(job) + ".0", code);
      }
    }
    std::filesystem::remove(report(), code);
  }
  Fio(const Fio&) = delete;
  Fio& operator=(const Fio&) = delete;

  Rates measure() const { return {run("write"), run("read")}; }

 private:
  std::string file_in(const std::string& folder) const { return folder + "/" + name_; }
  std::string report() const { return file_in(options_.folders.front()) + ".json"; }

  // Bytes a second of one job a folder, together.
  double run(const std::string& direction) const {
    std::string folders;
    for (const std::string& folder : options_.folders) {
      folders += (folders.empty() ? "" : ":") + folder;
    }
    const auto jobs = static_cast<int64_t>(options_.folders.size());
    std::vector<std::string> words{
        "fio",
        "--name=" + name_,
        "--directory=" + folders,
        "--numjobs=" + std::to_string(jobs),
        "--group_reporting",
        "--rw=" + direction,
        "--bs=" + std::to_string(options_.piece_bytes),
        "--iodepth=" + std::to_string(options_.depth),
        "--ioengine=" + engine_,
        "--direct=1",
        "--size=" + std::to_string(static_cast<int64_t>(kChunks) * kChunkBytes / jobs),
        "--output-format=json",
        "--output=" + report()};
    execute(words);
    const std::string text = read_text_file(report());
    // Notes of fio may come first.
    const auto json = nlohmann::json::parse(text.begin() + static_cast<long>(text.find('{')),
                                            text.end(), nullptr, false);
    if (json.is_discarded() || !json.contains("jobs")) {
      throw Error(ErrorKind::kBadInput, "fio reported no rates; see " + report());
    }
    return json["jobs"][0][direction]["bw_bytes"].get<double>();
  }

  static void execute(std::vector<std::string>& words) {
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    pid_t child = 0;
    const int code = posix_spawnp(&child, "fio", nullptr, nullptr, arguments.data(), environ);
    int status = 0;
    if (code == 0) waitpid(child, &status, 0);
    if (code == 0 && status == 0) return;
    throw Error(ErrorKind::kBadInput,
                "bench disk compares with fio, which " +
                    (code != 0 ? std::string("cannot be started: ") + std::strerror(code)
                               : std::string("failed")) +
                    "; install the package fio");
  }

  const DiskOptions options_;
  const std::string engine_;
  const std::string name_;
};

struct Way {
  std::string name;
  DiskOptions options;
  Rates best{};
};

DiskOptions options_for(const BenchOptions& options, bool encrypt, BlockBackend backend) {
  DiskOptions disk;
  disk.folders = options.disk.empty() ? std::vector<std::string>{"."} : options.disk;
  const auto folders = static_cast<int64_t>(disk.folders.size());
  const int64_t each = (static_cast<int64_t>(kChunks) + folders - 1) / folders;
  disk.budget = folders * each * DiskTier::stored_bytes(kChunkBytes);
  disk.encrypt = encrypt;
  disk.backend = backend;
  return disk;
}

void add_results(std::vector<BenchResult>& results, const Way& way, const Rates& fio,
                 const std::string& engine, const std::string& description) {
  const auto add = [&](const char* direction, double rate, double reference) {
    results.push_back({std::string("disk ") + direction + ", " + way.name,
                       rate * 1e-9,
                       "GB/s",
                       "fio, " + engine,
                       reference * 1e-9,
                       rate / reference,
                       {{"folders", way.options.folders},
                        {"chunk_bytes", kChunkBytes},
                        {"chunks", kChunks},
                        {"piece_bytes", way.options.piece_bytes},
                        {"depth", way.options.depth},
                        {"device", description}}});
  };
  add("write", way.best.write, fio.write);
  add("read", way.best.read, fio.read);
}

}  // namespace

std::vector<BenchResult> bench_disk(const BenchOptions& options) {
  const BlockBackend best = choose_block_backend().backend;
  std::vector<Way> ways{
      {name_of(best), options_for(options, false, best)},
      {std::string(name_of(best)) + ", encrypted", options_for(options, true, best)}};
  if (best != BlockBackend::kThreads) {
    ways.push_back(
        {name_of(BlockBackend::kThreads), options_for(options, false, BlockBackend::kThreads)});
  }
  const std::string engine = best == BlockBackend::kIoUring ? "io_uring" : "libaio";
  const Fio fio(ways.front().options, engine);
  std::vector<std::unique_ptr<DiskBench>> benches;
  for (const Way& way : ways) benches.push_back(std::make_unique<DiskBench>(way.options));
  Rates fio_best;
  for (int64_t i = 0; i < options.repeats; ++i) {
    keep_best(fio_best, fio.measure());
    for (size_t w = 0; w < ways.size(); ++w) keep_best(ways[w].best, benches[w]->measure());
  }
  std::vector<BenchResult> results;
  for (size_t w = 0; w < ways.size(); ++w) {
    add_results(results, ways[w], fio_best, engine, benches[w]->description());
  }
  return results;
}

}  // namespace hetmem::apps
