#include "runtime/step_timeline.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "core/error.h"

namespace hetmem {
namespace {

constexpr size_t index(MemoryKind kind) { return static_cast<size_t>(kind); }

// Bytes that come and go, by time; ops that take no time keep their order.
class MemoryChanges {
 public:
  explicit MemoryChanges(double step_seconds) : step_(step_seconds) {}

  struct Moment {
    double seconds = 0;
    int op = kAfterOps;
    bool operator<(const Moment& other) const {
      return std::tie(seconds, op) < std::tie(other.seconds, other.op);
    }
  };
  static constexpr int kAfterOps = 1 << 30;

  // Steps follow each other: what came before this one or stays beyond it is also seen in it.
  void add(Moment begin, Moment end, MemoryKind kind, int64_t bytes) {
    if (bytes == 0) return;
    while (begin.seconds >= step_) {
      begin.seconds -= step_;
      end.seconds -= step_;
    }
    while (begin.seconds < 0) {
      begin.seconds += step_;
      change({0, 0}, kind, bytes);
    }
    change(begin, kind, bytes);
    while (end.seconds > step_) {
      end.seconds -= step_;
      change({0, 0}, kind, bytes);
    }
    change(end, kind, -bytes);
  }

  std::vector<MemorySample> samples(const BytesByKind& always) const {
    std::vector<MemorySample> all;
    BytesByKind now = always;
    const auto take = [&](double seconds) { all.push_back({seconds, now}); };
    if (changes_.empty() || changes_.begin()->first.seconds > 0) take(0);
    for (const auto& [moment, bytes] : changes_) {
      if (moment.seconds >= step_) break;
      for (size_t kind = 0; kind < now.size(); ++kind) now[kind] += bytes[kind];
      take(moment.seconds);
    }
    return all;
  }

 private:
  void change(Moment moment, MemoryKind kind, int64_t bytes) {
    changes_[moment][index(kind)] += bytes;
  }

  double step_;
  std::map<Moment, BytesByKind> changes_;
};

class TimelineBuilder {
 public:
  TimelineBuilder(const AccessTrace& trace, const Plan& plan, const Simulation& simulation)
      : trace_(trace), plan_(plan), simulation_(simulation) {
    HETMEM_ASSERT(simulation.actions.size() == plan.actions.size());
    HETMEM_ASSERT(simulation.seconds > 0);
    op_.resize(static_cast<size_t>(trace.ops()));
    chunk_.resize(trace.chunks.size());
    sent_.assign(plan.residencies.size(), nullptr);
    fetched_next_.assign(plan.residencies.size(), nullptr);
    for (size_t i = 0; i < plan.actions.size(); ++i) find(i);
  }

  StepTimeline run() const {
    StepTimeline timeline;
    timeline.seconds = simulation_.seconds;
    for (size_t i = 0; i < plan_.actions.size(); ++i) add_spans(timeline, i);
    timeline.device = {plan_.device.budget, plan_.device.peak, device_samples()};
    timeline.host = {plan_.host.budget, plan_.host.peak, samples_below(false)};
    timeline.disk = {plan_.disk.budget, plan_.disk.peak, samples_below(true)};
    return timeline;
  }

 private:
  using Moment = MemoryChanges::Moment;

  // The actions on a chunk that say when its memory comes and goes.
  struct ChunkActions {
    const SimulatedAction* arrives = nullptr;  // the first copy of its gradient
    const SimulatedAction* early = nullptr;
    const SimulatedAction* stepped = nullptr;
  };

  void find(size_t i) {
    const Action& action = plan_.actions[i];
    const SimulatedAction* ran = &simulation_.actions[i];
    const auto target = static_cast<size_t>(action.target);
    switch (action.kind) {
      case Action::Kind::kOp:
        op_[target] = *ran;
        break;
      case Action::Kind::kFetch:
        if (static_cast<int>(i) >= plan_.next) fetched_next_[target] = ran;
        break;
      case Action::Kind::kSend: {
        sent_[target] = ran;
        ChunkActions& chunk = chunk_[static_cast<size_t>(plan_.residencies[target].chunk)];
        if (chunk.arrives == nullptr) chunk.arrives = ran;
        break;
      }
      case Action::Kind::kEarlyStep:
        chunk_[target].early = ran;
        break;
      case Action::Kind::kDeviceStep:
      case Action::Kind::kHostStep:
        chunk_[target].stepped = ran;
        break;
      case Action::Kind::kOutputs:
        norm_known_ = ran->end;
        break;
      case Action::Kind::kInputs:
        break;
    }
  }

  bool is_early(size_t chunk) const { return !plan_.early.empty() && plan_.early[chunk]; }

  void add_spans(StepTimeline& timeline, size_t i) const {
    const Action& action = plan_.actions[i];
    const bool done_before =
        action.kind == Action::Kind::kHostStep && is_early(static_cast<size_t>(action.target));
    if (done_before) return;
    add_span(timeline, action.lane, i);
    const DiskUse use = disk_use(trace_, plan_, action);
    if (use.read > 0) add_span(timeline, Lane::kDiskRead, i);
    if (use.written > 0) add_span(timeline, Lane::kDiskWrite, i);
  }

  void add_span(StepTimeline& timeline, Lane lane, size_t i) const {
    const SimulatedAction& ran = simulation_.actions[i];
    const double step = simulation_.seconds;
    double begin = ran.begin;
    double end = ran.end;
    while (begin >= step) {
      begin -= step;
      end -= step;
    }
    std::vector<LaneSpan>& spans = timeline.lanes[static_cast<size_t>(lane)];
    while (end > step) {
      spans.push_back({static_cast<int>(i), begin, step});
      begin = 0;
      end -= step;
    }
    spans.push_back({static_cast<int>(i), begin, end});
  }

  // When op `op` is next; after the last one the optimizer is.
  Moment before_op(int op) const {
    if (op == 0) return {0, 0};
    if (op < trace_.ops()) return {op_[static_cast<size_t>(op)].begin, op};
    return {op_.back().end, op};
  }

  std::vector<MemorySample> device_samples() const {
    MemoryChanges changes(simulation_.seconds);
    for (const TraceBuffer& buffer : trace_.buffers) {
      changes.add(before_op(buffer.first), before_op(buffer.last + 1), buffer.kind, buffer.bytes);
    }
    for (size_t r = 0; r < plan_.residencies.size(); ++r) {
      const Residency& stay = plan_.residencies[r];
      changes.add(begin_of(r), end_of(r),
                  stay.weights ? MemoryKind::kWeights : MemoryKind::kGradients, stay.bytes);
    }
    BytesByKind always{};
    always[index(MemoryKind::kStaging)] = trace_.fixed_bytes;
    for (size_t c = 0; c < trace_.chunks.size(); ++c) {
      if (!plan_.resident[c]) continue;
      always[index(MemoryKind::kWeights)] += trace_.chunks[c].weight_bytes;
      always[index(MemoryKind::kOptimizer)] += trace_.chunks[c].optimizer_bytes;
    }
    return changes.samples(always);
  }

  Moment begin_of(size_t r) const {
    const Residency& stay = plan_.residencies[r];
    if (stay.start >= 0) return before_op(stay.start);
    HETMEM_ASSERT(fetched_next_[r] != nullptr);
    return {fetched_next_[r]->begin - simulation_.seconds};
  }

  Moment end_of(size_t r) const {
    const Residency& stay = plan_.residencies[r];
    if (stay.end < trace_.ops()) return before_op(stay.end + 1);
    const SimulatedAction* last =
        stay.send ? sent_[r] : chunk_[static_cast<size_t>(stay.chunk)].stepped;
    return {last == nullptr ? simulation_.seconds : std::max(op_.back().end, last->end)};
  }

  // Of the host, or of the disk.
  std::vector<MemorySample> samples_below(bool disk) const {
    MemoryChanges changes(simulation_.seconds);
    BytesByKind always{};
    if (!disk)
      always[index(MemoryKind::kStaging)] = plan_.host.by_kind[index(MemoryKind::kStaging)];
    for (size_t c = 0; c < trace_.chunks.size(); ++c) {
      if (plan_.resident[c]) continue;
      const TraceChunk& chunk = trace_.chunks[c];
      int64_t gradient = 0;
      for (const HomePart& part : parts_of(chunk, plan_.places_of(c))) {
        if (part.on_disk != disk) continue;
        if (part.kind == MemoryKind::kGradients) {
          gradient = part.bytes;  // which comes and goes
        } else {
          always[index(part.kind)] += part.bytes;
        }
      }
      const ChunkActions& actions = chunk_[c];
      if (actions.arrives == nullptr || actions.stepped == nullptr) continue;
      const Moment arrives{actions.arrives->begin};
      const Moment consumed = consumed_at(c);
      changes.add(arrives, consumed, MemoryKind::kGradients, gradient);
      if (disk || actions.early == nullptr) continue;
      const Moment begun{actions.early->begin};
      changes.add(begun, consumed, MemoryKind::kWeights, chunk.weight_bytes);
      changes.add(begun, consumed, MemoryKind::kOptimizer, chunk.optimizer_bytes);
    }
    return changes.samples(always);
  }

  // Until the norm is known, an early step might have to be taken again.
  Moment consumed_at(size_t c) const {
    const double stepped = chunk_[c].stepped->end;
    return {is_early(c) ? std::max(stepped, norm_known_) : stepped};
  }

  const AccessTrace& trace_;
  const Plan& plan_;
  const Simulation& simulation_;
  std::vector<SimulatedAction> op_;                   // by op
  std::vector<ChunkActions> chunk_;                   // by chunk
  std::vector<const SimulatedAction*> sent_;          // by residency
  std::vector<const SimulatedAction*> fetched_next_;  // by residency: for the next step
  double norm_known_ = 0;
};

}  // namespace

StepTimeline make_timeline(const AccessTrace& trace, const Plan& plan,
                           const Simulation& simulation) {
  return TimelineBuilder(trace, plan, simulation).run();
}

std::string lane_name(Lane lane) {
  switch (lane) {
    case Lane::kCompute:
      return "compute";
    case Lane::kToDevice:
      return "link to device";
    case Lane::kToHost:
      return "link to host";
    case Lane::kHost:
      return "host optimizer";
    case Lane::kDiskRead:
      return "disk read";
    case Lane::kDiskWrite:
      break;
  }
  return "disk write";
}

std::string action_name(const Plan& plan, const Action& action,
                        const std::vector<std::string>& op_names) {
  const auto target = static_cast<size_t>(action.target);
  const auto chunk_of = [&] {
    const Residency& stay = plan.residencies[target];
    return std::to_string(stay.chunk);
  };
  switch (action.kind) {
    case Action::Kind::kInputs:
      return "tokens to the device";
    case Action::Kind::kOp:
      return target < op_names.size() ? op_names[target] : "op " + std::to_string(target);
    case Action::Kind::kFetch:
      return (plan.residencies[target].weights ? "fetch weights of chunk "
                                               : "fetch gradient of chunk ") +
             chunk_of();
    case Action::Kind::kSend:
      return "send gradient of chunk " + chunk_of();
    case Action::Kind::kOutputs:
      return "loss and norms to the host";
    case Action::Kind::kEarlyStep:
      return "early optimizer step of chunk " + std::to_string(target);
    default:
      return "optimizer step of chunk " + std::to_string(target);
  }
}

}  // namespace hetmem
