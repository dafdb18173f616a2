#include "core/trace.h"

#include <atomic>
#include <chrono>
#include <cstdio>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "core/error.h"

namespace hetmem::trace {
namespace {

struct Record {
  std::string track;
  std::string name;  // empty for a counter sample
  int64_t begin_ns;
  int64_t value;  // duration in ns, or the counter's value
};

struct Recorder {
  std::atomic<bool> enabled{false};
  std::mutex mutex;
  std::vector<Record> records;
  int64_t start_ns = 0;
};

Recorder& recorder() {
  static Recorder instance;
  return instance;
}

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return out + "\"";
}

std::string to_json(const Record& record, int track_id, int64_t start_ns) {
  char times[96];
  const double begin_us = static_cast<double>(record.begin_ns - start_ns) * 1e-3;
  if (record.name.empty()) {
    std::snprintf(times, sizeof(times), "\"ts\":%.3f,\"args\":{\"value\":%lld}", begin_us,
                  static_cast<long long>(record.value));
    return "{\"ph\":\"C\",\"pid\":1,\"name\":" + quoted(record.track) + "," + times + "}";
  }
  std::snprintf(times, sizeof(times), "\"ts\":%.3f,\"dur\":%.3f", begin_us,
                static_cast<double>(record.value) * 1e-3);
  return "{\"ph\":\"X\",\"pid\":1,\"tid\":" + std::to_string(track_id) +
         ",\"name\":" + quoted(record.name) + "," + times + "}";
}

}  // namespace

bool enabled() { return recorder().enabled.load(std::memory_order_relaxed); }

void start() {
  const std::lock_guard lock(recorder().mutex);
  recorder().records.clear();
  recorder().start_ns = now_ns();
  recorder().enabled = true;
}

void counter(std::string_view track, int64_t value) {
  if (!enabled()) return;
  const std::lock_guard lock(recorder().mutex);
  recorder().records.push_back({std::string(track), "", now_ns(), value});
}

Range::Range(std::string_view track, std::string_view name) : track_(track), name_(name) {
  if (enabled()) begin_ns_ = now_ns();
}

Range::~Range() {
  if (begin_ns_ < 0 || !enabled()) return;
  const int64_t end_ns = now_ns();
  try {
    const std::lock_guard lock(recorder().mutex);
    recorder().records.push_back(
        {std::string(track_), std::string(name_), begin_ns_, end_ns - begin_ns_});
  } catch (...) {  // a trace that lacks a range is better than a run that ends
  }
}

void write(const std::string& path) {
  const std::lock_guard lock(recorder().mutex);
  recorder().enabled = false;
  std::map<std::string, int> tracks;
  std::string text = "{\"traceEvents\":[\n";
  for (const Record& record : recorder().records) {
    const auto [entry, is_new] = tracks.emplace(record.track, static_cast<int>(tracks.size()) + 1);
    if (is_new && !record.name.empty()) {
      text += "{\"ph\":\"M\",\"pid\":1,\"tid\":" + std::to_string(entry->second) +
              ",\"name\":\"thread_name\",\"args\":{\"name\":" + quoted(record.track) + "}},\n";
    }
    text += to_json(record, entry->second, recorder().start_ns) + ",\n";
  }
  text += "{\"ph\":\"M\",\"pid\":1,\"name\":\"process_name\",\"args\":{\"name\":\"hetmem\"}}\n]}\n";
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "wb"),
                                                             &std::fclose);
  if (!file || std::fwrite(text.data(), 1, text.size(), file.get()) != text.size() ||
      std::fflush(file.get()) != 0) {
    throw Error(ErrorKind::kStorage, "cannot write the trace to " + path);
  }
}

}  // namespace hetmem::trace
