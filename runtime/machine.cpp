#include "runtime/machine.h"

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <vector>

#include "core/error.h"
#include "device/link.h"
#include "device/thread_pool.h"
#include "device/tier.h"
#include "io/file.h"
#include "io/json.h"
#include "ops/cpu/gemm_bf16.h"
#include "ops/ops.h"
#include "runtime/run_disk.h"

namespace hetmem {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

// Bytes a second of a disk that nobody has measured: a run measures its own when it begins.
constexpr double kDiskRate = 1e9;

std::string dashed(std::string text) {
  for (char& c : text) {
    if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '-';
  }
  return text;
}

// A processor's name and how much of it the process has: what rates belong to.
std::string machine_key() {
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  std::string name = "cpu";
  while (std::getline(file, line)) {
    if (line.rfind("model name", 0) != 0) continue;
    name = line.substr(line.find(':') + 2);
    break;
  }
  return dashed(name) + "-" + ops::instruction_set() + "-" + std::to_string(available_processors());
}

// "cuda-NVIDIA-H100-80GB-HBM3": the link is one of device and host.
std::string device_key(const DeviceId& device) {
  if (device.kind == DeviceKind::kCpu) return machine_key();
  const std::vector<Gpu>& gpus = find_gpus().gpus;
  const bool there = device.index < static_cast<int>(gpus.size());
  return "cuda-" + dashed(there ? gpus[static_cast<size_t>(device.index)].name : "none") + "-" +
         machine_key();
}

fs::path cache_path(const DeviceId& device) {
  const char* xdg = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  const fs::path base = xdg != nullptr && *xdg != '\0'
                            ? fs::path(xdg)
                            : fs::path(home != nullptr ? home : "/tmp") / ".cache";
  return base / "hetmem" / (device_key(device) + ".json");
}

template <typename Work>
double best_seconds(int times, const Work& work) {
  double best = 1e300;
  for (int i = 0; i < times; ++i) {
    const auto start = Clock::now();
    work();
    best = std::min(best, std::chrono::duration<double>(Clock::now() - start).count());
  }
  return best;
}

MachineRates read_rates(const std::string& path, const char* source) {
  const Json json = read_json_file(path);
  MachineRates rates;
  const auto rate = [&](const char* key) {
    if (!json.is_object() || !json.contains(key) || !json[key].is_number() ||
        json[key].get<double>() < 0) {
      throw Error(ErrorKind::kBadInput, path + ": \"" + key +
                                            "\" is missing or no rate; `hetmem doctor --measure` "
                                            "writes such a file");
    }
    return json[key].get<double>();
  };
  rates.gemm_flops = rate("gemm_flops");
  rates.bf16_flops = rate("bf16_flops");
  rates.memory_bandwidth = rate("memory_bandwidth");
  const auto optional = [&](const char* key, double fallback = 0) {
    return json.contains(key) ? rate(key) : fallback;
  };
  rates.copies = {rate("to_device"), rate("to_host"), optional("disk_read", kDiskRate),
                  optional("disk_write", kDiskRate), optional("disk_both")};
  rates.host_bandwidth = optional("host_bandwidth");
  rates.device_memory = static_cast<int64_t>(optional("device_memory"));
  rates.host_memory = static_cast<int64_t>(optional("host_memory"));
  rates.disk_memory = static_cast<int64_t>(optional("disk_memory"));
  rates.host_shares_compute = json.value("host_shares_compute", true);
  if (json.contains("disk_read") && json.contains("disk_write")) {
    const bool said = json.contains("disk_from") && json["disk_from"].is_string();
    rates.disk_source = said ? json["disk_from"].get<std::string>() : source;
  }
  rates.source = source;
  return rates;
}

MachineRates assumed_rates(DeviceKind device) {
  const double per_core = std::string(ops::instruction_set()) == "avx512" ? 90e9 : 60e9;
  const double gemm = per_core * available_processors();
  constexpr double kHostBandwidth = 20e9;
  if (device == DeviceKind::kCuda) {  // as of a GPU of a data centre, on PCIe 4
    return {20e12, 0.0, 1.5e12,   {20e9, 20e9, kDiskRate, kDiskRate}, kHostBandwidth, false, 0,
            0,     0,   "assumed"};
  }
  return {gemm,
          ops::has_native_bf16() ? 1.6 * gemm : 0.0,
          kHostBandwidth,
          {6e9, 6e9, kDiskRate, kDiskRate},
          0,
          true,
          0,
          0,
          0,
          "assumed"};
}

// Bytes a second that the pool's threads read and write: y += x.
double host_bandwidth(ThreadPool& pool) {
  // More than caches hold, less than a run has beside its budgets.
  constexpr int64_t kElements = 12 << 20;
  std::vector<float> x(kElements, 1.0F);
  std::vector<float> y(kElements, 2.0F);
  const double add = best_seconds(5, [&] {
    pool.parallel_blocks(kElements, 65536, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) y[i] += x[i];
    });
  });
  return 12.0 * kElements / add;
}

MachineRates measure_cpu(Device& device, ThreadPool& pool) {
  constexpr int64_t kM = 512;
  constexpr int64_t kN = 1536;
  constexpr int64_t kK = 768;
  std::vector<float> a(kM * kK, 0.5F);
  std::vector<float> b(kN * kK, 0.25F);
  std::vector<float> c(kM * kN);
  const ops::cpu::GemmShape shape{kM, kN, kK, false, true};
  constexpr double kFlops = 2.0 * kM * kN * kK;
  const double gemm = kFlops / best_seconds(10, [&] {
                        ops::cpu::gemm(pool, shape, a.data(), kK, b.data(), kK, 0.0F, c.data(), kN);
                      });
  double bf16 = 0;
  if (ops::has_native_bf16()) {
    std::vector<std::byte> workspace(static_cast<size_t>(ops::cpu::gemm_bf16_workspace(shape)));
    bf16 = kFlops / best_seconds(10, [&] {
             ops::cpu::gemm_bf16(pool, shape, a.data(), kK, {b.data(), kK}, 0.0F, c.data(), kN,
                                 workspace.data());
           });
  }
  const double memory = host_bandwidth(pool);
  const LinkRates link = measure_link_rates(device);
  return {gemm, bf16, memory,    {link.to_device, link.to_host, kDiskRate, kDiskRate}, 0, true, 0,
          0,    0,    "measured"};
}

// Of the disks of these folders; without any, as kept before.
void add_disk_rates(const DeviceId& device, const std::vector<std::string>& folders,
                    MachineRates& rates) {
  MachineRates disk = load_rates("", device);
  if (!folders.empty()) {
    measure_disk_of(folders, disk.copies);
    disk.disk_source = "measured in ";
    for (const std::string& folder : folders) {
      disk.disk_source += (&folder == &folders.front() ? "" : ",") + absolute_path(folder);
    }
  }
  rates.copies.disk_read = disk.copies.disk_read;
  rates.copies.disk_write = disk.copies.disk_write;
  rates.copies.disk_both = disk.copies.disk_both;
  rates.disk_source = disk.disk_source;
}

// By the ops of a step: a product, and a sum for memory.
MachineRates measure_gpu(Device& device, ThreadPool& pool) {
  constexpr int64_t kSize = 4096;
  const Shape square{kSize, kSize};
  const auto stream = device.make_stream("compute");
  OpCall product;
  product.kind = OpKind::kLinear;
  product.params = LinearParams{};
  const int64_t workspace =
      ops::workspace_bytes(device.id().kind, product.kind, product.params, {square, square});
  const int64_t matrix = kSize * kSize * static_cast<int64_t>(sizeof(float));
  Tier tier("device", 3 * matrix + workspace, device.memory());
  const Buffer memory(tier, tier.budget(), MemoryKind::kWorkspace, MemorySpace::kDevice);
  const auto at = [&](int64_t i) { return memory.view(i * matrix, DType::kFloat32, square); };
  product.inputs = {at(0), at(1)};
  product.outputs = {at(2)};
  if (workspace > 0) {
    product.workspace = memory.view(3 * matrix, DType::kUint8, Shape{workspace});
  }
  OpCall sum;
  sum.kind = OpKind::kAdd;
  sum.inputs = {at(0), at(1)};
  sum.outputs = {at(2)};
  const auto seconds = [&](const OpCall& call) {
    double best = 1e300;
    for (int i = 0; i < 10; ++i) {
      double taken = 0;
      stream->start_timer();
      ops::launch(*stream, call);
      stream->stop_timer(taken);
      stream->synchronize();
      best = std::min(best, taken);
    }
    return best;
  };
  const double gemm = 2.0 * kSize * kSize * kSize / seconds(product);
  const double bandwidth = 3.0 * static_cast<double>(matrix) / seconds(sum);
  const LinkRates link = measure_link_rates(device);
  return {gemm,
          0,
          bandwidth,
          {link.to_device, link.to_host, kDiskRate, kDiskRate},
          host_bandwidth(pool),
          false,
          0,
          0,
          0,
          "measured"};
}

}  // namespace

MachineRates load_rates(const std::string& machine_file, const DeviceId& device) {
  if (!machine_file.empty()) return read_rates(machine_file, "file");
  try {
    return read_rates(cache_path(device).string(), "measured");
  } catch (const Error&) {  // not measured yet, or an old file
    return assumed_rates(device.kind);
  }
}

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  while (std::getline(file, line)) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  }
  return "unknown processor";
}

double step_seconds(const Step& step, const MachineRates& rates) {
  bool bf16 = false;
  if (const auto* linear = std::get_if<LinearParams>(&step.node.params)) bf16 = linear->bf16;
  if (const auto* head = std::get_if<HeadParams>(&step.node.params)) bf16 = head->bf16;
  const double flops = bf16 && rates.bf16_flops > 0 ? rates.bf16_flops : rates.gemm_flops;
  return std::max(step.cost.flops / flops, step.cost.bytes / rates.memory_bandwidth);
}

MachineRates measure_rates(Device& device, ThreadPool& pool, const std::vector<std::string>& disk) {
  const bool cpu = device.id().kind == DeviceKind::kCpu;
  MachineRates rates = cpu ? measure_cpu(device, pool) : measure_gpu(device, pool);
  add_disk_rates(device.id(), disk, rates);
  const fs::path path = cache_path(device.id());
  std::error_code code;
  fs::create_directories(path.parent_path(), code);
  Json json{{"gemm_flops", rates.gemm_flops},
            {"bf16_flops", rates.bf16_flops},
            {"memory_bandwidth", rates.memory_bandwidth},
            {"to_device", rates.copies.to_device},
            {"to_host", rates.copies.to_host}};
  if (!cpu) {
    json["host_bandwidth"] = rates.host_bandwidth;
    json["host_shares_compute"] = rates.host_shares_compute;
  }
  if (rates.disk_source != "assumed") {
    json["disk_read"] = rates.copies.disk_read;
    json["disk_write"] = rates.copies.disk_write;
    json["disk_both"] = rates.copies.disk_both;
    json["disk_from"] = rates.disk_source;
  }
  // Names of folders need not be UTF-8.
  write_text_file(path.string(), json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n");
  return rates;
}

void keep_rates(const DeviceId& id) {
  if (load_rates("", id).source == "measured") return;
  try {
    ThreadPool pool;
    const std::unique_ptr<Device> device = make_device(id, pool);
    measure_rates(*device, pool);
  } catch (const Error&) {  // the folder cannot be written: predictions go by assumed rates
  }
}

}  // namespace hetmem
