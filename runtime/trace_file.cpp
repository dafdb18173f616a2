#include "runtime/trace_file.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "io/json.h"

namespace hetmem {
namespace {

constexpr int kVersion = 2;
constexpr int64_t kMostBytes = int64_t{1} << 50;
constexpr double kMostSeconds = 1e9;

Json ops_json(const AccessTrace& trace, const std::vector<std::string>& names) {
  Json ops = Json::array();
  for (size_t i = 0; i < trace.op_seconds.size(); ++i) {
    Json op{{"seconds", trace.op_seconds[i]}};
    if (i < names.size()) op["name"] = names[i];
    ops.push_back(std::move(op));
  }
  return ops;
}

Json chunk_json(const TraceChunk& chunk) {
  Json writes = Json::array();
  for (const OpRun& run : chunk.writes) writes.push_back({run.first, run.last});
  return {{"weight_bytes", chunk.weight_bytes},
          {"gradient_bytes", chunk.gradient_bytes},
          {"optimizer_bytes", chunk.optimizer_bytes},
          {"weight_trailers", chunk.weight_trailers},
          {"gradient_trailers", chunk.gradient_trailers},
          {"optimizer_trailers", chunk.optimizer_trailers},
          {"reads", chunk.reads},
          {"writes", std::move(writes)},
          {"in_place", chunk.in_place},
          {"device_step_seconds", chunk.device_step_seconds},
          {"host_step_seconds", chunk.host_step_seconds},
          {"early_step_seconds", chunk.early_step_seconds}};
}

Json trace_json(const AccessTrace& trace, const std::vector<std::string>& names) {
  Json buffers = Json::array();
  for (const TraceBuffer& buffer : trace.buffers) {
    buffers.push_back({{"bytes", buffer.bytes},
                       {"kind", std::string(name_of(buffer.kind))},
                       {"first", buffer.first},
                       {"last", buffer.last}});
  }
  Json chunks = Json::array();
  for (const TraceChunk& chunk : trace.chunks) chunks.push_back(chunk_json(chunk));
  return {{"group", trace.group},
          {"host_shares_compute", trace.host_shares_compute},
          {"fixed_bytes", trace.fixed_bytes},
          {"input_bytes", trace.input_bytes},
          {"output_bytes", trace.output_bytes},
          {"ops", ops_json(trace, names)},
          {"buffers", std::move(buffers)},
          {"chunks", std::move(chunks)}};
}

// A value of the file with the place where it is, for messages.
class Field {
 public:
  Field(const Json& json, std::string where) : json_(json), where_(std::move(where)) {}

  Field operator[](const char* key) const {
    if (!json_.is_object() || !json_.contains(key)) {
      refuse("has no \"" + std::string(key) + "\"");
    }
    return {json_[key], where_ + "." + key};
  }
  bool has(const char* key) const { return json_.is_object() && json_.contains(key); }

  int64_t integer(int64_t least, int64_t most) const {
    const bool whole = json_.is_number_integer();
    // A number beyond int64 would be read as a negative one.
    if (!whole || (json_.is_number_unsigned() && json_.get<uint64_t>() > uint64_t{1} << 62) ||
        json_.get<int64_t>() < least || json_.get<int64_t>() > most) {
      refuse("must be a whole number from " + std::to_string(least) + " to " +
             std::to_string(most));
    }
    return json_.get<int64_t>();
  }
  int64_t bytes() const { return integer(0, kMostBytes); }
  double real(double most) const {
    if (!json_.is_number() || !(json_.get<double>() >= 0) || !(json_.get<double>() <= most)) {
      refuse("must be a number of at least 0");
    }
    return json_.get<double>();
  }
  double seconds() const { return real(kMostSeconds); }
  bool boolean() const {
    if (!json_.is_boolean()) refuse("must be true or false");
    return json_.get<bool>();
  }
  std::string text() const {
    if (!json_.is_string()) refuse("must be a text");
    return json_.get<std::string>();
  }
  template <typename Visit>
  void each(const Visit& visit) const {
    if (!json_.is_array()) refuse("must be a list");
    for (size_t i = 0; i < json_.size(); ++i) {
      visit(Field(json_[i], where_ + "[" + std::to_string(i) + "]"));
    }
  }
  [[noreturn]] void refuse(const std::string& what) const {
    throw Error(ErrorKind::kBadInput,
                where_ + " " + what + "; `train` writes such a file as access_trace.json");
  }

 private:
  const Json& json_;
  std::string where_;
};

MemoryKind kind_of(const Field& node) {
  const std::string name = node.text();
  for (int kind = 0; kind < kMemoryKinds; ++kind) {
    if (name == name_of(static_cast<MemoryKind>(kind))) return static_cast<MemoryKind>(kind);
  }
  node.refuse("is no kind of memory");
}

OpRun read_run(const Field& node, int ops, int after) {
  std::vector<int> ends;
  node.each([&](const Field& end) {
    const int least = ends.empty() ? after + 1 : ends.front();
    ends.push_back(static_cast<int>(end.integer(least, ops - 1)));
  });
  if (ends.size() != 2) node.refuse("must be the first and the last op of a run");
  return {ends[0], ends[1]};
}

TraceChunk read_chunk(const Field& node, int ops) {
  TraceChunk chunk;
  chunk.weight_bytes = node["weight_bytes"].integer(1, kMostBytes);
  chunk.gradient_bytes = node["gradient_bytes"].bytes();
  chunk.optimizer_bytes = node["optimizer_bytes"].bytes();
  chunk.weight_trailers = node["weight_trailers"].bytes();
  chunk.gradient_trailers = node["gradient_trailers"].bytes();
  chunk.optimizer_trailers = node["optimizer_trailers"].bytes();
  node["reads"].each([&](const Field& read) {
    const int least = chunk.reads.empty() ? 0 : chunk.reads.back() + 1;
    chunk.reads.push_back(static_cast<int>(read.integer(least, ops - 1)));
  });
  node["writes"].each([&](const Field& run) {
    const int after = chunk.writes.empty() ? -1 : chunk.writes.back().last;
    chunk.writes.push_back(read_run(run, ops, after));
  });
  chunk.in_place = node["in_place"].boolean();
  chunk.device_step_seconds = node["device_step_seconds"].seconds();
  chunk.host_step_seconds = node["host_step_seconds"].seconds();
  chunk.early_step_seconds = node["early_step_seconds"].seconds();
  if (!chunk.trained() && !chunk.writes.empty()) node.refuse("has writes and no gradient");
  if (chunk.in_place && (chunk.gradient_bytes != chunk.weight_bytes || chunk.writes.empty())) {
    node.refuse("cannot have its gradient in the place of its weights");
  }
  return chunk;
}

AccessTrace read_access(const Field& node, std::vector<std::string>* names) {
  AccessTrace trace;
  trace.group = node["group"].integer(1, kMostBytes);
  trace.host_shares_compute = node["host_shares_compute"].boolean();
  trace.fixed_bytes = node["fixed_bytes"].bytes();
  trace.input_bytes = node["input_bytes"].bytes();
  trace.output_bytes = node["output_bytes"].bytes();
  node["ops"].each([&](const Field& op) {
    trace.op_seconds.push_back(op["seconds"].seconds());
    if (names != nullptr) names->push_back(op["name"].text());
  });
  const int ops = trace.ops();
  if (ops == 0) node.refuse("has no ops");
  node["buffers"].each([&](const Field& at) {
    TraceBuffer buffer;
    buffer.bytes = at["bytes"].integer(1, kMostBytes);
    buffer.kind = kind_of(at["kind"]);
    buffer.first = static_cast<int>(at["first"].integer(0, ops - 1));
    buffer.last = static_cast<int>(at["last"].integer(buffer.first, ops - 1));
    trace.buffers.push_back(buffer);
  });
  node["chunks"].each([&](const Field& at) { trace.chunks.push_back(read_chunk(at, ops)); });
  return trace;
}

StepFigures read_figures(const Field& node) {
  StepFigures figures;
  figures.parameters = node["parameters"].bytes();
  figures.tokens_per_step = node["tokens"].bytes();
  figures.micro_batches = node["micro_batches"].integer(1, kMostBytes);
  figures.chunk_bytes = node["chunk_capacity"].bytes();
  figures.chunk_waste = node["chunk_waste"].real(1);
  return figures;
}

// Sums of the bytes of a trace must be numbers, too.
void check_sum(const Field& node, const AccessTrace& trace) {
  double sum = 0;
  for (const TraceBuffer& buffer : trace.buffers) sum += static_cast<double>(buffer.bytes);
  for (const TraceChunk& chunk : trace.chunks) {
    sum += static_cast<double>(chunk.state_bytes() + chunk.gradient_bytes);
    sum += static_cast<double>(chunk.weight_trailers + chunk.gradient_trailers);
    sum += static_cast<double>(chunk.optimizer_trailers);
  }
  if (sum > static_cast<double>(kMostBytes)) node.refuse("holds more bytes than a machine has");
}

}  // namespace

std::vector<std::string> op_names(const StepTrace& trace, const Program& training) {
  std::vector<std::string> names;
  for (const OpInstance& op : trace.ops) {
    if (op.step < 0) {
      names.push_back("norm of the gradients of chunk " + std::to_string(op.chunk));
      continue;
    }
    const Node& node = training.steps[static_cast<size_t>(op.step)].node;
    names.push_back(std::string(name_of(node.op)) + " " + node.name);
  }
  return names;
}

TraceRecord record_trace(const RunPlan& run, const Program& training, const PlanReport& report) {
  TraceRecord record;
  record.figures = static_cast<const StepFigures&>(report);
  record.budgets = {report.device.budget, report.host.budget};
  record.budgets.disk = report.disk.budget;
  record.budgets.disk_margin = run.budgets.disk_margin;
  record.budgets.staging = run.budgets.staging;
  record.rates.copies = report.rates.copies;
  record.rates.source = report.rates.source;
  record.training = run.training.trace.access;
  record.evaluation = run.evaluation.trace.access;
  record.op_names = op_names(run.training.trace, training);
  return record;
}

std::string to_json(const TraceRecord& record) {
  Json json;
  json["format"] = "hetmem access trace";
  json["version"] = kVersion;
  json["step"] = {{"parameters", record.figures.parameters},
                  {"tokens", record.figures.tokens_per_step},
                  {"micro_batches", record.figures.micro_batches},
                  {"chunk_capacity", record.figures.chunk_bytes},
                  {"chunk_waste", record.figures.chunk_waste}};
  json["budgets"] = {{"device", record.budgets.device},
                     {"host", record.budgets.host},
                     {"disk", record.budgets.disk},
                     {"disk_margin", record.budgets.disk_margin},
                     {"staging", record.budgets.staging}};
  json["rates"] = {{"to_device", record.rates.copies.to_device},
                   {"to_host", record.rates.copies.to_host},
                   {"disk_read", record.rates.copies.disk_read},
                   {"disk_write", record.rates.copies.disk_write},
                   {"disk_both", record.rates.copies.disk_both},
                   {"disk_from", record.rates.disk_source},
                   {"from", record.rates.source}};
  json["training"] = trace_json(record.training, record.op_names);
  json["evaluation"] = trace_json(record.evaluation, {});
  return json.dump();
}

TraceRecord read_trace(const std::string& path) {
  const Json json = read_json_file(path);
  const Field root(json, path);
  if (root["format"].text() != "hetmem access trace" ||
      root["version"].integer(0, kMostBytes) != kVersion) {
    root.refuse("is no access trace of version " + std::to_string(kVersion));
  }
  TraceRecord record;
  record.figures = read_figures(root["step"]);
  const Field budgets = root["budgets"];
  record.budgets = {budgets["device"].bytes(), budgets["host"].bytes()};
  record.budgets.disk = budgets["disk"].bytes();
  record.budgets.disk_margin = budgets["disk_margin"].bytes();
  record.budgets.staging = budgets["staging"].bytes();
  const Field rates = root["rates"];
  constexpr double kMostRate = 1e18;
  record.rates.copies = {rates["to_device"].real(kMostRate), rates["to_host"].real(kMostRate),
                         rates["disk_read"].real(kMostRate), rates["disk_write"].real(kMostRate)};
  // Traces of earlier runs have neither.
  if (rates.has("disk_both")) {
    record.rates.copies.disk_both = rates["disk_both"].real(kMostRate);
  }
  record.rates.disk_source = rates[rates.has("disk_from") ? "disk_from" : "from"].text();
  record.rates.source = rates["from"].text();
  record.training = read_access(root["training"], &record.op_names);
  record.evaluation = read_access(root["evaluation"], nullptr);
  record.figures.chunks = record.training.chunks.size();
  if (record.evaluation.chunks.size() != record.training.chunks.size()) {
    root.refuse("has other chunks in training than in evaluation");
  }
  check_sum(root["training"], record.training);
  check_sum(root["evaluation"], record.evaluation);
  return record;
}

RunPlan plan_trace(const TraceRecord& record, const TierBudgets& budgets) {
  return plan_traces(record.training, record.evaluation, budgets, record.rates.copies);
}

}  // namespace hetmem
