// bench gemm: the GEMMs of a training step by the seam, beside oneDNN and OpenBLAS with threads of
// their own; and the tuning of the seam's rules.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <tuple>

#include "apps/bench.h"
#include "core/error.h"
#include "device/thread_pool.h"
#include "io/file.h"
#include "io/model_config.h"
#include "ops/cpu/gemm_rules.h"
#include "ops/cpu/op_gemms.h"
#include "ops/ops.h"
#include "runtime/program.h"

namespace hetmem::apps {
namespace {

using ops::cpu::GemmKernel;
using ops::cpu::GemmRule;
using ops::cpu::GemmShape;

auto key(const GemmShape& s) { return std::tuple(s.transpose_a, s.transpose_b, s.m, s.n, s.k); }
struct LessShape {
  bool operator()(const GemmShape& a, const GemmShape& b) const { return key(a) < key(b); }
};
using ShapeCounts = std::map<GemmShape, int, LessShape>;

// How often each shape occurs in a step whose head takes its weight in blocks of rows (0: whole).
ShapeCounts shapes_of(const BenchCase& which, int64_t block_rows) {
  TrainConfig config;
  config.device = "cpu";
  config.batch_size = which.batch;
  const Program program =
      compile_training(parse_model_config(which.config_json, which.name), config, which.sequence);
  ShapeCounts counts;
  for (const Step& step : program.steps) {
    std::vector<Shape> inputs;
    for (const ValueId id : step.node.inputs) inputs.push_back(program.value(id).shape);
    for (const GemmShape& shape :
         ops::cpu::gemms_of(step.node.op, step.node.params, inputs, block_rows)) {
      ++counts[shape];
    }
  }
  return counts;
}

struct Operands {
  explicit Operands(const GemmShape& s)
      : a(static_cast<size_t>(s.m * s.k), 0.5F),
        b(static_cast<size_t>(s.k * s.n), 0.25F),
        c(static_cast<size_t>(s.m * s.n)),
        lda(s.transpose_a ? s.m : s.k),
        ldb(s.transpose_b ? s.k : s.n),
        ldc(s.n) {}
  std::vector<float> a;
  std::vector<float> b;
  std::vector<float> c;
  int64_t lda;
  int64_t ldb;
  int64_t ldc;
};

// Operands of many calls in turn: in a step they come from memory, as each layer has its own.
std::vector<Operands> cold_operands(const GemmShape& s) {
  constexpr double kCaches = 128e6;  // bytes that no cache holds
  const double bytes = 4.0 * static_cast<double>(s.m * s.k + s.k * s.n + s.m * s.n);
  return {static_cast<size_t>(1 + kCaches / bytes), Operands(s)};
}

double flops(const GemmShape& s) {
  return 2.0 * static_cast<double>(s.m) * static_cast<double>(s.n) * static_cast<double>(s.k);
}

std::string text(const GemmShape& s) {
  return fmt::format("{}x{}x{} {}{}", s.m, s.n, s.k, s.transpose_a ? 'T' : 'N',
                     s.transpose_b ? 'T' : 'N');
}

}  // namespace

std::vector<BenchResult> bench_gemm(const BenchOptions& options) {
  ThreadPool pool(options.threads);
  std::vector<BenchResult> results;
  for (const BenchCase& which : bench_cases(options)) {
    double ours_total = 0;
    double best_total = 0;
    double total_flops = 0;
    for (const auto& entry : shapes_of(which, which.block_rows)) {
      const GemmShape& shape = entry.first;
      const int count = entry.second;
      Operands at(shape);
      double ours = 1e300;
      std::array<double, 2> library{1e300, 1e300};
      for (int64_t repeat = 0; repeat <= options.repeats; ++repeat) {  // the first one warms up
        const double seam = seconds_of([&] {
          ops::cpu::gemm(pool, shape, at.a.data(), at.lda, at.b.data(), at.ldb, 0, at.c.data(),
                         at.ldc);
        });
        if (repeat > 0) ours = std::min(ours, seam);
        for (const GemmKernel kernel : {GemmKernel::kOneDnn, GemmKernel::kOpenBlas}) {
          const double taken = seconds_of([&] {
            ops::cpu::gemm_by_library(kernel, pool.threads(), shape, at.a.data(), at.lda,
                                      at.b.data(), at.ldb, 0, at.c.data(), at.ldc);
          });
          double& least = library.at(static_cast<size_t>(kernel));
          if (repeat > 0) least = std::min(least, taken);
        }
      }
      const double best = std::min(library[0], library[1]);
      ours_total += count * ours;
      best_total += count * std::min(ours, best);
      total_flops += count * flops(shape);
      results.push_back({which.name + " " + text(shape),
                         flops(shape) / ours * 1e-9,
                         "GFLOP/s",
                         library[0] <= library[1] ? "oneDNN, its threads" : "OpenBLAS, its threads",
                         flops(shape) / best * 1e-9,
                         best / ours,
                         {{"calls_per_step", count}, {"seconds", ours}}});
    }
    results.push_back({which.name + " all GEMMs of a step",
                       total_flops / ours_total * 1e-9,
                       "GFLOP/s",
                       "the best for each shape",
                       total_flops / best_total * 1e-9,
                       best_total / ours_total,
                       {{"seconds", ours_total}, {"best_seconds", best_total}}});
  }
  return results;
}

void tune_gemm(const BenchOptions& options) {
  constexpr std::array<int, 8> kPieces{1, 2, 3, 4, 6, 8, 16, 32};
  constexpr int kMostPieces = 64;
  ThreadPool pool(options.threads);
  const std::string set = ops::instruction_set();
  const std::string marker = set == "avx512" ? "Isa::kAvx512" : "Isa::kAvx2";
  ShapeCounts shapes;
  for (const BenchCase& which : bench_cases(options)) {
    shapes.merge(shapes_of(which, which.block_rows));
    shapes.merge(shapes_of(which, 0));
  }
  std::string rows;
  for (const auto& entry : shapes) {
    const GemmShape& shape = entry.first;
    std::vector<Operands> operands = cold_operands(shape);
    size_t turn = 0;
    std::string best_row;
    double best = 1e300;
    for (const GemmKernel kernel : {GemmKernel::kOneDnn, GemmKernel::kOpenBlas}) {
      for (const int down : kPieces) {
        for (const int across : kPieces) {
          // Two pieces at least, so that a few threads find work.
          if (down * across < 2 || down * across > kMostPieces) continue;
          const GemmRule rule{kernel, ops::cpu::gemm_piece(shape.m, down),
                              ops::cpu::gemm_piece(shape.n, across)};
          double least = 1e300;
          for (int64_t repeat = 0; repeat < options.repeats; ++repeat) {
            Operands& at = operands[turn++ % operands.size()];
            least =
                std::min(least, seconds_of([&] {
                           ops::cpu::gemm_with_rule(pool, rule, shape, at.a.data(), at.lda,
                                                    at.b.data(), at.ldb, 0, at.c.data(), at.ldc);
                         }));
            if (least > 2 * best) break;
          }
          if (least >= best) continue;
          best = least;
          best_row =
              fmt::format("{{{{{}, {}, {}, {}, {}}}, {}, GemmKernel::{}, {}, {}}},\n", shape.m,
                          shape.n, shape.k, shape.transpose_a, shape.transpose_b, marker,
                          kernel == GemmKernel::kOneDnn ? "kOneDnn" : "kOpenBlas", down, across);
        }
      }
    }
    rows += best_row;
    fmt::print("{:<32} {:>7.1f} GFLOP/s  {}", text(shape), flops(shape) / best * 1e-9, best_row);
    std::fflush(stdout);
  }
  // The rows of the other instruction set stay.
  std::string kept;
  std::string before = read_text_file(options.tune);
  for (size_t begin = 0; begin < before.size();) {
    const size_t end = std::min(before.find('\n', begin), before.size() - 1) + 1;
    const std::string line = before.substr(begin, end - begin);
    if (line.find(marker + ",") == std::string::npos) kept += line;
    begin = end;
  }
  write_text_file(options.tune, kept + rows);
}

}  // namespace hetmem::apps
