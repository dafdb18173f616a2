#include "runtime/trace_comparison.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "io/json.h"

namespace hetmem {
namespace {

constexpr size_t kShownOps = 12;

double optimizer_seconds(const AccessTrace& trace) {
  return std::accumulate(trace.chunks.begin(), trace.chunks.end(), 0.0,
                         [](double sum, const TraceChunk& c) { return sum + c.host_step_seconds; });
}

double op_seconds(const AccessTrace& trace) {
  return std::accumulate(trace.op_seconds.begin(), trace.op_seconds.end(), 0.0);
}

Json pair(double seconds, double other) { return {{"seconds", seconds}, {"other_seconds", other}}; }

}  // namespace

TraceComparison compare(const TraceRecord& record, const TraceRecord& other) {
  TraceComparison comparison;
  comparison.op_seconds = op_seconds(record.training);
  comparison.other_op_seconds = op_seconds(other.training);
  comparison.optimizer_seconds = optimizer_seconds(record.training);
  comparison.other_optimizer_seconds = optimizer_seconds(other.training);
  comparison.rates = record.rates.copies;
  comparison.other_rates = other.rates.copies;
  std::map<std::string, OpDifference> by_name;
  for (size_t i = 0; i < record.op_names.size(); ++i) {
    by_name[record.op_names[i]].seconds += record.training.op_seconds[i];
  }
  for (size_t i = 0; i < other.op_names.size(); ++i) {
    by_name[other.op_names[i]].other_seconds += other.training.op_seconds[i];
  }
  for (auto& [name, op] : by_name) {
    op.name = name;
    comparison.ops.push_back(op);
  }
  std::stable_sort(comparison.ops.begin(), comparison.ops.end(),
                   [](const OpDifference& a, const OpDifference& b) {
                     return std::abs(a.difference()) > std::abs(b.difference());
                   });
  return comparison;
}

std::string to_json(const TraceComparison& comparison) {
  Json json;
  json["ops_total"] = pair(comparison.op_seconds, comparison.other_op_seconds);
  json["optimizer_total"] = pair(comparison.optimizer_seconds, comparison.other_optimizer_seconds);
  json["to_device"] = {{"rate", comparison.rates.to_device},
                       {"other_rate", comparison.other_rates.to_device}};
  json["to_host"] = {{"rate", comparison.rates.to_host},
                     {"other_rate", comparison.other_rates.to_host}};
  json["ops"] = Json::array();
  for (const OpDifference& op : comparison.ops) {
    Json row{{"name", op.name}};
    row.update(pair(op.seconds, op.other_seconds));
    json["ops"].push_back(std::move(row));
  }
  return json.dump();
}

std::string to_text(const TraceComparison& comparison) {
  std::string text =
      fmt::format("  {:<60}{:>13}{:>13}{:>14}\n", "", "first", "other", "difference");
  const auto row = [&](const std::string& name, double first, double other, double scale,
                       const char* unit) {
    text += fmt::format("  {:<60}{:>8.2f} {:<4}{:>8.2f} {:<4}{:>+9.2f} {}\n", name, first * scale,
                        unit, other * scale, unit, (other - first) * scale, unit);
  };
  constexpr double kMilli = 1e3;
  row("all ops", comparison.op_seconds, comparison.other_op_seconds, kMilli, "ms");
  row("optimizer", comparison.optimizer_seconds, comparison.other_optimizer_seconds, kMilli, "ms");
  constexpr double kGiga = 1e-9;
  row("link to the device", comparison.rates.to_device, comparison.other_rates.to_device, kGiga,
      "GB/s");
  row("link to the host", comparison.rates.to_host, comparison.other_rates.to_host, kGiga, "GB/s");
  const size_t shown = std::min(kShownOps, comparison.ops.size());
  text += fmt::format("\n  the {} of {} ops that differ most\n", shown, comparison.ops.size());
  for (size_t i = 0; i < shown; ++i) {
    const OpDifference& op = comparison.ops[i];
    row(op.name, op.seconds, op.other_seconds, kMilli, "ms");
  }
  return text;
}

}  // namespace hetmem
