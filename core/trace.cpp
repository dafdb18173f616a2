#include "core/trace.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <tuple>
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
  std::deque<Record> records;
  size_t most = 0;
  int64_t start_ns = 0;
};

void keep(Recorder& recorder, Record record) {
  const std::lock_guard lock(recorder.mutex);
  if (recorder.records.size() == recorder.most) recorder.records.pop_front();
  recorder.records.push_back(std::move(record));
}

Recorder& recorder() {
  static Recorder instance;
  return instance;
}

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return out + "\"";
}

struct Slice {
  std::string_view track;
  int64_t begin_ns;
  int64_t end_ns;
};

// The slices of a track of the format nest. Where those of a name do not (transfers in flight
// together), further tracks of that name take what crosses: which of them each slice is on, from 1.
std::vector<size_t> lanes_of(const std::vector<Slice>& slices) {
  std::vector<size_t> order(slices.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    const Slice& first = slices[a];
    const Slice& second = slices[b];
    return std::tie(first.begin_ns, second.end_ns) < std::tie(second.begin_ns, first.end_ns);
  });
  // Of each track, the ends of the slices that are open, the innermost last.
  std::map<std::string_view, std::vector<std::vector<int64_t>>> open;
  std::vector<size_t> lanes(slices.size());
  for (const size_t i : order) {
    std::vector<std::vector<int64_t>>& tracks = open[slices[i].track];
    size_t lane = 0;
    for (; lane < tracks.size(); ++lane) {
      std::vector<int64_t>& ends = tracks[lane];
      while (!ends.empty() && ends.back() <= slices[i].begin_ns) ends.pop_back();
      if (ends.empty() || slices[i].end_ns <= ends.back()) break;
    }
    if (lane == tracks.size()) tracks.emplace_back();
    tracks[lane].push_back(slices[i].end_ns);
    lanes[i] = lane + 1;
  }
  return lanes;
}

int64_t ns_of(double seconds) { return std::llround(seconds * 1e9); }

// The events of a trace as its format wants them, each on a line.
class EventList {
 public:
  void begin_process(std::string_view name) {
    ++process_;
    tracks_.clear();
    add("\"ph\":\"M\",\"name\":\"process_name\",\"args\":{\"name\":" + quoted(name) + "}");
  }

  void span(const Slice& slice, size_t lane, std::string_view name) {
    std::string track(slice.track);
    if (lane > 1) track += " (" + std::to_string(lane) + ")";
    const auto [entry, is_new] = tracks_.emplace(track, static_cast<int>(tracks_.size()) + 1);
    const std::string thread = "\"tid\":" + std::to_string(entry->second);
    if (is_new) {
      add("\"ph\":\"M\"," + thread +
          ",\"name\":\"thread_name\",\"args\":{\"name\":" + quoted(track) + "}");
    }
    char times[96];
    std::snprintf(times, sizeof(times), "\"ts\":%.3f,\"dur\":%.3f", us_of(slice.begin_ns),
                  us_of(slice.end_ns - slice.begin_ns));
    add("\"ph\":\"X\"," + thread + ",\"name\":" + quoted(name) + "," + times);
  }

  void counter(std::string_view track, int64_t ns,
               const std::vector<std::pair<std::string, int64_t>>& values) {
    char time[48];
    std::snprintf(time, sizeof(time), "\"ts\":%.3f", us_of(ns));
    std::string list;
    for (const auto& [name, value] : values) {
      list += (list.empty() ? "" : ",") + quoted(name) + ":" + std::to_string(value);
    }
    add("\"ph\":\"C\",\"name\":" + quoted(track) + "," + time + ",\"args\":{" + list + "}");
  }

  std::string text() const { return "{\"traceEvents\":[\n" + events_ + "\n]}\n"; }

 private:
  static double us_of(int64_t ns) { return static_cast<double>(ns) * 1e-3; }

  void add(const std::string& fields) {
    if (!events_.empty()) events_ += ",\n";
    events_ += "{\"pid\":" + std::to_string(process_) + "," + fields + "}";
  }

  int process_ = 0;
  std::map<std::string, int> tracks_;
  std::string events_;
};

}  // namespace

bool enabled() { return recorder().enabled.load(std::memory_order_relaxed); }

void start(size_t most) {
  const std::lock_guard lock(recorder().mutex);
  recorder().records.clear();
  recorder().most = most;
  recorder().start_ns = now_ns();
  recorder().enabled = true;
}

void stop() {
  const std::lock_guard lock(recorder().mutex);
  recorder().enabled = false;
  recorder().records.clear();
}

void counter(std::string_view track, int64_t value) noexcept {
  if (!enabled()) return;
  try {
    keep(recorder(), {std::string(track), "", now_ns(), value});
  } catch (...) {  // a trace that lacks something is better than a run that ends
  }
}

Range::Range(std::string_view track, std::string_view name) : track_(track), name_(name) {
  if (enabled()) begin_ns_ = now_ns();
}

Range::~Range() {
  if (begin_ns_ < 0 || !enabled()) return;
  const int64_t end_ns = now_ns();
  try {
    keep(recorder(), {std::string(track_), std::string(name_), begin_ns_, end_ns - begin_ns_});
  } catch (...) {  // a trace that lacks something is better than a run that ends
  }
}

void write(const std::string& path, const std::vector<Process>& beside) {
  const std::lock_guard lock(recorder().mutex);
  recorder().enabled = false;
  EventList events;
  events.begin_process("hetmem");
  std::vector<Slice> slices;
  for (const Record& record : recorder().records) {
    if (record.name.empty()) continue;
    const int64_t begin_ns = record.begin_ns - recorder().start_ns;
    slices.push_back({record.track, begin_ns, begin_ns + record.value});
  }
  std::vector<size_t> lanes = lanes_of(slices);
  size_t next = 0;
  for (const Record& record : recorder().records) {
    if (record.name.empty()) {
      events.counter(record.track, record.begin_ns - recorder().start_ns,
                     {{"value", record.value}});
    } else {
      events.span(slices[next], lanes[next], record.name);
      ++next;
    }
  }
  for (const Process& process : beside) {
    events.begin_process(process.name);
    slices.clear();
    for (const Span& span : process.spans) {
      slices.push_back(
          {span.track, ns_of(span.begin_seconds), ns_of(span.begin_seconds + span.seconds)});
    }
    lanes = lanes_of(slices);
    for (size_t i = 0; i < slices.size(); ++i) {
      events.span(slices[i], lanes[i], process.spans[i].name);
    }
    for (const Sample& sample : process.samples) {
      events.counter(sample.track, ns_of(sample.seconds), sample.values);
    }
  }
  const std::string text = events.text();
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "wb"),
                                                             &std::fclose);
  if (!file || std::fwrite(text.data(), 1, text.size(), file.get()) != text.size() ||
      std::fflush(file.get()) != 0) {
    throw Error(ErrorKind::kStorage, "cannot write the trace to " + path);
  }
}

}  // namespace hetmem::trace
