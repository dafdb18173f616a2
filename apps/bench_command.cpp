// bench: runs one benchmark and prints it.
#include <fmt/format.h>

#include <map>

#include "apps/bench.h"
#include "apps/commands.h"
#include "core/error.h"
#include "device/thread_pool.h"
#include "io/file.h"
#include "ops/ops.h"
#include "runtime/machine.h"

namespace hetmem::apps {
namespace {

constexpr const char* kGpt2 = R"({"model_type":"gpt2","vocab_size":50257,"n_positions":1024,
  "n_embd":768,"n_layer":12,"n_head":12,"resid_pdrop":0.0,"embd_pdrop":0.0,"attn_pdrop":0.0})";
constexpr const char* kSmolLm2 = R"({"model_type":"llama","vocab_size":49152,"hidden_size":576,
  "intermediate_size":1536,"num_hidden_layers":30,"num_attention_heads":9,
  "num_key_value_heads":3,"max_position_embeddings":8192,"rms_norm_eps":1e-5,
  "rope_theta":100000.0,"tie_word_embeddings":true})";

void print_table(const std::vector<BenchResult>& results) {
  for (const BenchResult& result : results) {
    fmt::print("{:<44} {:>10.2f} {:<9} {:>10.2f} {:<28} {:>6.2f}x\n", result.name, result.value,
               result.unit, result.reference_value, result.reference, result.ratio);
  }
}

using Benchmark = std::vector<BenchResult> (*)(const BenchOptions&);

Benchmark benchmark_named(const std::string& name) {
  const std::map<std::string, Benchmark> known{{"gemm", bench_gemm}, {"adam", bench_adam},
                                               {"step", bench_step}, {"link", bench_link},
                                               {"disk", bench_disk}, {"memory", bench_memory}};
  const auto found = known.find(name);
  if (found != known.end()) return found->second;
  const bool later = name == "codec";
  throw Error(ErrorKind::kBadInput, (later ? "bench " + name + " is not in this version"
                                           : "there is no benchmark \"" + name + "\"") +
                                        "; there are gemm, adam, step, link, disk and memory");
}

}  // namespace

std::vector<BenchCase> bench_cases(const BenchOptions& options) {
  const auto or_default = [](int64_t given, int64_t fallback) {
    return given > 0 ? given : fallback;
  };
  if (!options.model.empty()) {
    return {{options.model, read_text_file(options.model + "/config.json"),
             or_default(options.batch_size, 4), or_default(options.sequence_length, 256), 0}};
  }
  return {{"gpt2-124m", kGpt2, or_default(options.batch_size, 4),
           or_default(options.sequence_length, 64), 3072},
          {"smollm2-135m", kSmolLm2, or_default(options.batch_size, 2),
           or_default(options.sequence_length, 256), 6144}};
}

int bench(const std::string& name, const BenchOptions& options) {
  if (!options.tune.empty() && name != "gemm") {
    throw Error(ErrorKind::kBadInput, "--tune belongs to bench gemm");
  }
  std::vector<BenchResult> results;
  if (!options.tune.empty()) {
    tune_gemm(options);
    return 0;
  }
  results = benchmark_named(name)(options);
  if (!options.json) {
    print_table(results);
    return 0;
  }
  nlohmann::ordered_json json;
  json["benchmark"] = name;
  json["results"] = nlohmann::ordered_json::array();
  for (const BenchResult& result : results) {
    json["results"].push_back({{"name", result.name},
                               {"value", result.value},
                               {"unit", result.unit},
                               {"reference", result.reference},
                               {"reference_value", result.reference_value},
                               {"ratio", result.ratio},
                               {"parameters", result.parameters}});
  }
  json["machine"] = {{"processor", processor_name()},
                     {"threads", options.threads > 0 ? options.threads : available_processors()},
                     {"instruction_set", ops::instruction_set()}};
  fmt::print("{}\n", json.dump());
  return 0;
}

}  // namespace hetmem::apps
