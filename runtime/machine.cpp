#include "runtime/machine.h"

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "device/link.h"
#include "device/thread_pool.h"
#include "device/tier.h"
#include "io/file.h"
#include "io/json.h"
#include "ops/cpu/gemm_bf16.h"
#include "ops/ops.h"

namespace hetmem {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

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
  for (char& c : name) {
    if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '-';
  }
  return name + "-" + ops::instruction_set() + "-" + std::to_string(available_processors());
}

fs::path cache_path() {
  const char* xdg = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  const fs::path base = xdg != nullptr && *xdg != '\0'
                            ? fs::path(xdg)
                            : fs::path(home != nullptr ? home : "/tmp") / ".cache";
  return base / "hetmem" / (machine_key() + ".json");
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

}  // namespace

namespace {

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
  rates.copies = {rate("to_device"), rate("to_host")};
  const auto optional = [&](const char* key) { return json.contains(key) ? rate(key) : 0.0; };
  rates.host_bandwidth = optional("host_bandwidth");
  rates.device_memory = static_cast<int64_t>(optional("device_memory"));
  rates.host_memory = static_cast<int64_t>(optional("host_memory"));
  rates.host_shares_compute = json.value("host_shares_compute", true);
  rates.source = source;
  return rates;
}

MachineRates assumed_rates() {
  const double per_core = std::string(ops::instruction_set()) == "avx512" ? 90e9 : 60e9;
  const double gemm = per_core * available_processors();
  return {gemm,     ops::has_native_bf16() ? 1.6 * gemm : 0.0, 20e9, {6e9, 6e9}, 0, true, 0, 0,
          "assumed"};
}

}  // namespace

MachineRates load_rates(const std::string& machine_file) {
  if (!machine_file.empty()) return read_rates(machine_file, "file");
  try {
    return read_rates(cache_path().string(), "measured");
  } catch (const Error&) {  // not measured yet, or an old file
    return assumed_rates();
  }
}

double step_seconds(const Step& step, const MachineRates& rates) {
  bool bf16 = false;
  if (const auto* linear = std::get_if<LinearParams>(&step.node.params)) bf16 = linear->bf16;
  if (const auto* head = std::get_if<HeadParams>(&step.node.params)) bf16 = head->bf16;
  const double flops = bf16 && rates.bf16_flops > 0 ? rates.bf16_flops : rates.gemm_flops;
  return std::max(step.cost.flops / flops, step.cost.bytes / rates.memory_bandwidth);
}

MachineRates measure_rates(int threads) {
  ThreadPool pool(threads);
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
             ops::cpu::gemm_bf16(pool, shape, a.data(), kK, b.data(), kK, 0.0F, c.data(), kN,
                                 workspace.data());
           });
  }
  constexpr int64_t kElements =
      12 << 20;  // more than caches hold, less than a run has beside its budgets
  std::vector<float> x(kElements, 1.0F);
  std::vector<float> y(kElements, 2.0F);
  const double add = best_seconds(5, [&] {
    pool.parallel_blocks(kElements, 65536, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) y[i] += x[i];
    });
  });
  x = y = {};
  const LinkRates link = measure_link_rates(pool);
  MachineRates rates{
      gemm, bf16,      12.0 * kElements / add, {link.to_device, link.to_host}, 0, true, 0,
      0,    "measured"};
  const fs::path path = cache_path();
  std::error_code code;
  fs::create_directories(path.parent_path(), code);
  const Json json{{"gemm_flops", rates.gemm_flops},
                  {"bf16_flops", rates.bf16_flops},
                  {"memory_bandwidth", rates.memory_bandwidth},
                  {"to_device", rates.copies.to_device},
                  {"to_host", rates.copies.to_host}};
  write_text_file(path.string(), json.dump() + "\n");
  return rates;
}

void keep_rates() {
  if (load_rates().source == "measured") return;
  try {
    measure_rates(0);
  } catch (const Error&) {  // the folder cannot be written: predictions go by assumed rates
  }
}

}  // namespace hetmem
