// bench adam and bench step: the optimizer beside a plain loop over the same streams, and whole
// training steps beside the bound that GEMMs and memory set.
#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "apps/bench.h"
#include "apps/bench_case.h"
#include "device/stream.h"
#include "device/thread_pool.h"
#include "device/tier.h"
#include "ops/ops.h"
#include "runtime/trainer.h"

namespace hetmem::apps {
namespace {

constexpr int64_t kAdamElements = 100'000'000;
constexpr int64_t kBlock = 65536;
constexpr double kAdamBytes = 28;  // reads w, g, m, v; writes w, m, v
constexpr double kNormBytes = 4;   // reads g once more

// w, g, m and v side by side.
class Streams {
 public:
  Streams() : tier_("benchmark", int64_t{1} << 40) {
    buffer_ = Buffer(tier_, 4 * kAdamElements * 4, MemoryKind::kWorkspace, MemorySpace::kDevice);
  }
  TensorView operator[](int which) const {
    return buffer_.view(which * kAdamElements * 4, DType::kFloat32, Shape{kAdamElements});
  }
  float* data(int which) const { return (*this)[which].as<float>(); }

 private:
  Tier tier_;
  Buffer buffer_;
};

void plain_loop(ThreadPool& pool, const Streams& streams) {
  float* w = streams.data(0);
  const float* g = streams.data(1);
  float* m = streams.data(2);
  float* v = streams.data(3);
  pool.parallel_blocks(kAdamElements, kBlock, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      m[i] = m[i] + g[i];
      v[i] = v[i] + g[i];
      w[i] = w[i] + g[i];
    }
  });
}

void fill(ThreadPool& pool, const Streams& streams) {
  for (int which = 0; which < 4; ++which) {
    float* data = streams.data(which);
    pool.parallel_blocks(kAdamElements, kBlock, [=](int64_t begin, int64_t end) {
      std::fill(data + begin, data + end, 0.001F * static_cast<float>(which + 1));
    });
  }
}

// The same with moments of zero in 8 bits.
void fill_coded(ThreadPool& pool, const Streams& streams) {
  fill(pool, streams);
  for (const int which : {2, 3}) {
    float* data = streams.data(which);
    pool.parallel_blocks(kAdamElements, kBlock, [=](int64_t begin, int64_t end) {
      std::fill(data + begin, data + end, 0.0F);
    });
  }
}

// A form of an AdamW step, on the memory of the streams.
struct AdamForm {
  std::string name;
  double bytes;  // that it moves for a parameter
  std::function<void(ThreadPool&, const Streams&)> fill;
  std::function<void(Stream&, const ops::AdamWStep&)> step;
};

std::vector<AdamForm> adam_forms(const Streams& streams) {
  const TensorView w = streams[0];
  const TensorView g = streams[1];
  const TensorView m = streams[2];
  const TensorView v = streams[3];
  const auto part = [](const TensorView& of, int64_t bytes, DType dtype, int64_t count) {
    return TensorView(static_cast<std::byte*>(of.data) + bytes, dtype, Shape{count}, of.space);
  };
  const TensorView hi = part(w, 0, DType::kBFloat16, kAdamElements);
  const TensorView lo = part(w, kAdamElements * 2, DType::kInt16, kAdamElements);
  const auto records = [&](const TensorView& of) {
    return part(of, 0, DType::kUint8, list_bytes(DType::kUint8, kAdamElements));
  };
  const TensorView coded_m = records(m);
  const TensorView coded_v = records(v);
  return {
      {"adamw fp32", 28, fill,
       [=](Stream& stream, const ops::AdamWStep& step) {
         ops::adamw_step(stream, step, w, g, m, v);
       }},
      {"adamw split master", 28, fill,
       [=](Stream& stream, const ops::AdamWStep& step) {
         ops::adamw_step(stream, step, hi, g, m, v, lo);
       }},
      {"adamw 8-bit", 16, fill_coded,
       [=](Stream& stream, const ops::AdamWStep& step) {
         ops::adamw_8bit_step(stream, step, w, g, coded_m, coded_v);
       }},
      {"adamw 8-bit split master", 16, fill_coded, [=](Stream& stream, const ops::AdamWStep& step) {
         ops::adamw_8bit_step(stream, step, hi, g, coded_m, coded_v, lo);
       }}};
}

}  // namespace

double streaming_bandwidth(int threads, int64_t repeats) {
  ThreadPool pool(threads);
  const Streams streams;
  fill(pool, streams);
  double best = 1e300;
  for (int64_t i = 0; i < repeats; ++i) {
    best = std::min(best, seconds_of([&] { plain_loop(pool, streams); }));
  }
  return kAdamBytes * kAdamElements / best;
}

std::vector<BenchResult> bench_adam(const BenchOptions& options) {
  ThreadPool pool(options.threads);
  CpuStream stream("compute", pool);
  const Streams streams;
  ops::AdamWStep step;
  step.learning_rate = 1e-5F;
  step.bias_correction1 = 0.1F;
  step.bias_correction2_sqrt = 0.1F;
  const std::vector<AdamForm> forms = adam_forms(streams);
  std::vector<double> best(forms.size(), 1e300);
  double loop = 1e300;
  for (int64_t i = 0; i < options.repeats; ++i) {
    fill(pool, streams);
    loop = std::min(loop, seconds_of([&] { plain_loop(pool, streams); }));
    for (size_t form = 0; form < forms.size(); ++form) {
      forms[form].fill(pool, streams);
      best[form] = std::min(best[form], seconds_of([&] {
                              forms[form].step(stream, step);
                              stream.synchronize();
                            }));
    }
  }
  std::vector<BenchResult> results;
  for (size_t form = 0; form < forms.size(); ++form) {
    // What a form does in the time in which fp32 would move its bytes.
    results.push_back({forms[form].name,
                       kAdamBytes * kAdamElements / best[form] * 1e-9,
                       form == 0 ? "GB/s" : "GB/s of fp32",
                       "plain loop, 4 read 3 written",
                       kAdamBytes * kAdamElements / loop * 1e-9,
                       loop / best[form],
                       {{"parameters", kAdamElements},
                        {"bytes", forms[form].bytes},
                        {"seconds", best[form]},
                        {"parameters_per_second", kAdamElements / best[form]},
                        {"threads", pool.threads()}}});
  }
  return results;
}

std::vector<BenchResult> bench_step(const BenchOptions& options) {
  std::vector<BenchResult> results;
  const double bandwidth = streaming_bandwidth(options.threads, options.repeats);
  const std::vector<BenchResult> gemms = bench_gemm(options);
  for (const BenchCase& which : bench_cases(options)) {
    const ConfigFolder folder(which.config_json);
    TrainConfig config;
    config.device = "cpu";
    config.compute_dtype = "fp32";  // as the bound and the other libraries have it
    config.model = folder.path();
    config.from_scratch = true;
    config.batch_size = which.batch;
    config.sequence_length = which.sequence;
    config.threads = options.threads;
    Trainer trainer(config, options.repeats + 1);
    const std::vector<int32_t> tokens =
        random_tokens(which.batch * (which.sequence + 1), trainer.model().vocabulary);
    double best = 1e300;
    int64_t peak = 0;
    for (int64_t i = 0; i <= options.repeats; ++i) {  // the first step touches memory first
      const StepReport report = trainer.step(tokens);
      if (i > 0) best = std::min(best, report.seconds);
      peak = report.device.peak;
    }
    const auto all = std::find_if(gemms.begin(), gemms.end(), [&](const BenchResult& result) {
      return result.name == which.name + " all GEMMs of a step";
    });
    const double gemm_seconds = all->parameters["best_seconds"].get<double>();
    const double memory_seconds =
        (kAdamBytes + kNormBytes) * static_cast<double>(trainer.parameters()) / bandwidth;
    const double bound = gemm_seconds + memory_seconds;
    const auto count = static_cast<double>(which.batch * which.sequence);
    results.push_back({which.name + " whole step",
                       count / best,
                       "tokens/s",
                       "bound by GEMMs and bytes",
                       count / bound,
                       bound / best,
                       {{"batch_size", which.batch},
                        {"sequence_length", which.sequence},
                        {"seconds", best},
                        {"gemm_bound_seconds", gemm_seconds},
                        {"optimizer_bound_seconds", memory_seconds},
                        {"bandwidth", bandwidth},
                        {"device_peak", peak},
                        {"peak_resident", peak_resident_bytes()}}});
  }
  return results;
}

}  // namespace hetmem::apps
