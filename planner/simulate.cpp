#include "planner/simulate.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>

#include "core/error.h"

namespace hetmem {
namespace {

constexpr size_t kCompute = static_cast<size_t>(Lane::kCompute);
constexpr size_t kToDevice = static_cast<size_t>(Lane::kToDevice);
constexpr size_t kToHost = static_cast<size_t>(Lane::kToHost);
constexpr size_t kHost = static_cast<size_t>(Lane::kHost);
constexpr size_t kDiskRead = static_cast<size_t>(Lane::kDiskRead);
constexpr size_t kDiskWrite = static_cast<size_t>(Lane::kDiskWrite);

double copy_seconds(int64_t bytes, double rate) {
  return rate > 0 ? static_cast<double>(bytes) / rate : 0.0;
}

// Of reads and writes that share the disk. `disk_both` is that of as much of each, which takes this
// share of what they take one after the other.
double both_seconds(const DiskUse& use, const CopyRates& rates) {
  if (rates.disk_both <= 0 || rates.disk_read <= 0 || rates.disk_write <= 0) return 0;
  const double share = 2 / rates.disk_both / (1 / rates.disk_read + 1 / rates.disk_write);
  return std::min(1.0, share) *
         (copy_seconds(use.read, rates.disk_read) + copy_seconds(use.written, rates.disk_write));
}

// Of reads, of writes, and of both where they share the disk.
std::array<double, 3> disk_parts(const DiskUse& use, const CopyRates& rates) {
  return {copy_seconds(use.read, rates.disk_read), copy_seconds(use.written, rates.disk_write),
          both_seconds(use, rates)};
}

// Every lane goes through its actions in order, cycle after cycle: a step is a cycle.
class Clock {
 public:
  Clock(const AccessTrace& trace, const Plan& plan, const CopyRates& rates)
      : trace_(trace), plan_(plan), rates_(rates), size_(plan.actions.size()) {
    early_of_.assign(trace.chunks.size(), -1);
    for (size_t i = 0; i < size_; ++i) add(i);
    for (std::vector<SimulatedAction>& cycle : ran_) cycle.resize(size_);
    done_.assign(size_, -1);
  }

  Simulation run() {
    start_.push_back(0);
    bool steady = size_ == 0;
    while (!steady) {
      pass();
      steady = end_cycle();
    }
    last_ = true;
    pass();
    result_.seconds = period_;
    const auto last = ran_[(start_.size() - 1) % 2];
    for (const SimulatedAction& action : last) {
      result_.actions.push_back({action.begin - start_.back(), action.end - start_.back()});
    }
    return std::move(result_);
  }

 private:
  struct Queue {
    std::vector<int> actions;
    size_t at = 0;
    int cycle = 0;
    double free = 0;
  };

  void add(size_t i) {
    const Action& action = plan_.actions[i];
    lanes_[static_cast<size_t>(action.lane)].actions.push_back(static_cast<int>(i));
    seconds_.push_back(seconds_of(action));
    result_.busy[static_cast<size_t>(action.lane)] += seconds_.back();
    const DiskUse use = disk_use(trace_, plan_, action);
    result_.traffic.disk_read += use.read;
    result_.traffic.disk_write += use.written;
    disk_seconds_.push_back(disk_parts(use, rates_));
    result_.busy[kDiskRead] += disk_seconds_.back()[0];
    result_.busy[kDiskWrite] += disk_seconds_.back()[1];
    result_.disk_busy += disk_seconds_.back()[2];
    if (action.kind == Action::Kind::kOutputs) outputs_ = static_cast<int>(i);
    if (action.kind == Action::Kind::kEarlyStep) {
      early_of_[static_cast<size_t>(action.target)] = static_cast<int>(i);
    }
    if (static_cast<int>(i) < plan_.update) ++before_update_;
  }

  double seconds_of(const Action& action) {
    const auto target = static_cast<size_t>(action.target);
    switch (action.kind) {
      case Action::Kind::kInputs:
        result_.traffic.to_device += trace_.input_bytes;
        return copy_seconds(trace_.input_bytes, rates_.to_device);
      case Action::Kind::kOutputs:
        result_.traffic.to_host += trace_.output_bytes;
        return copy_seconds(trace_.output_bytes, rates_.to_host);
      case Action::Kind::kOp:
        return trace_.op_seconds[target];
      case Action::Kind::kFetch:
        result_.traffic.to_device += plan_.residencies[target].bytes;
        return copy_seconds(plan_.residencies[target].bytes, rates_.to_device);
      case Action::Kind::kSend:
        result_.traffic.to_host += plan_.residencies[target].bytes;
        return copy_seconds(plan_.residencies[target].bytes, rates_.to_host);
      case Action::Kind::kEarlyStep:
        return trace_.chunks[target].early_step_seconds;
      case Action::Kind::kDeviceStep:
        return trace_.chunks[target].device_step_seconds;
      case Action::Kind::kHostStep:
        return early_of_[target] >= 0 ? 0.0 : trace_.chunks[target].host_step_seconds;
    }
    return 0;
  }

  int cycle() const { return static_cast<int>(start_.size()) - 1; }

  // When the next action of a lane can begin, if all that it waits for is known.
  struct Ready {
    double from = 0;   // the lane could
    double begin = 0;  // and what it waits for is done
  };
  std::optional<Ready> ready(const Queue& lane) const {
    if (lane.at == lane.actions.size() || lane.cycle > cycle()) return std::nullopt;
    const int i = lane.actions[lane.at];
    const Action& action = plan_.actions[static_cast<size_t>(i)];
    const bool update = i >= plan_.update;
    if (update && !(norm_known_ || lane.cycle < cycle())) return std::nullopt;
    const double gate = update ? norm_[static_cast<size_t>(lane.cycle) % 2]
                               : start_[static_cast<size_t>(lane.cycle)];
    Ready at;
    at.from = std::max(lane.free, gate);
    at.begin = at.from;
    const auto join = [&](int other, int of_cycle) {
      if (of_cycle < 0) return true;
      if (done_[static_cast<size_t>(other)] < of_cycle) return false;
      at.begin = std::max(at.begin,
                          ran_[static_cast<size_t>(of_cycle) % 2][static_cast<size_t>(other)].end);
      return true;
    };
    for (const int other : action.waits) {
      if (!join(other, lane.cycle)) return std::nullopt;
    }
    for (const int other : action.carried) {
      if (!join(other, lane.cycle - 1)) return std::nullopt;
    }
    return at;
  }

  void advance(Queue& lane, const Ready& at) {
    const auto i = static_cast<size_t>(lane.actions[lane.at]);
    const Action& action = plan_.actions[i];
    SimulatedAction& ran = ran_[static_cast<size_t>(lane.cycle) % 2][i];
    const int early =
        action.kind == Action::Kind::kHostStep ? early_of_[static_cast<size_t>(action.target)] : -1;
    if (early >= 0) {
      ran = ran_[static_cast<size_t>(lane.cycle) % 2][static_cast<size_t>(early)];
    } else {
      if (action.lane == Lane::kCompute) exposed_ += at.begin - at.from;
      ran = {at.begin, at.begin + seconds_[i]};
      pass_the_disk(i, ran);
      lane.free = ran.end;
      // What waits for the disk leaves the processor to others.
      const bool takes_processor = action.lane == Lane::kCompute || action.lane == Lane::kHost;
      if (takes_processor) {
        processor_free_ = std::max(processor_free_, at.begin + seconds_[i]);
      }
    }
    done_[i] = lane.cycle;
    if (lane.cycle == cycle() && static_cast<int>(i) < plan_.update) note_before_update(i, ran.end);
    pass_by(lane);
  }

  // What a lane asks of the disk comes behind what lanes have asked of it before.
  void pass_the_disk(size_t i, SimulatedAction& ran) {
    for (size_t part = 0; part < disk_free_.size(); ++part) {
      const double seconds = disk_seconds_[i][part];
      if (seconds == 0) continue;
      disk_free_[part] = std::max(disk_free_[part], ran.begin) + seconds;
      ran.end = std::max(ran.end, disk_free_[part]);
    }
  }

  static void pass_by(Queue& lane) {
    if (++lane.at < lane.actions.size()) return;
    lane.at = 0;
    ++lane.cycle;
  }

  // With overlap the optimizer waits for loss and norm alone.
  void note_before_update(size_t i, double end) {
    ++ran_before_update_;
    before_update_end_ = std::max(before_update_end_, end);
    const bool outputs = static_cast<int>(i) == outputs_;
    if (plan_.overlap ? outputs : ran_before_update_ == before_update_) {
      norm_known_ = true;
      norm_[static_cast<size_t>(cycle()) % 2] = plan_.overlap ? end : before_update_end_;
    }
  }

  // Runs what can be run until the step under way is through.
  void pass() {
    if (!shared()) return pass_in_order();
    bool progress = true;
    while (progress) {
      progress = false;
      for (const size_t l : {kToDevice, kToHost}) {
        while (const std::optional<Ready> at = ready(lanes_[l])) {
          advance(lanes_[l], *at);
          progress = true;
        }
      }
      if (!may_end()) progress |= share();
    }
  }

  // Lanes do not change each other's turns: what is waited for is earlier in the list.
  void pass_in_order() {
    if (lanes_[static_cast<size_t>(plan_.actions[0].lane)].cycle > cycle()) return;
    for (const Action& action : plan_.actions) {
      Queue& lane = lanes_[static_cast<size_t>(action.lane)];
      const bool takes_compute = trace_.host_shares_compute && action.lane == Lane::kHost;
      if (takes_compute) lane.free = std::max(lane.free, lanes_[kCompute].free);
      const std::optional<Ready> at = ready(lane);
      HETMEM_ASSERT(at.has_value());
      advance(lane, *at);
      if (takes_compute) lanes_[kCompute].free = lane.free;
    }
  }

  // Whether the host's work and that of the device take turns.
  bool shared() const { return trace_.host_shares_compute && plan_.overlap; }

  // Whether the next step can begin, in which the host goes on beside compute.
  bool may_end() const {
    return !last_ && norm_known_ && lanes_[kCompute].cycle > cycle() &&
           lanes_[kToHost].cycle > cycle();
  }

  // Compute and the host's work are on one processor: who can begin first does, in turns.
  bool share() {
    std::optional<Ready> compute = ready(lanes_[kCompute]);
    std::optional<Ready> host = ready(lanes_[kHost]);
    if (!compute && !host) return false;
    for (std::optional<Ready>* at : {&compute, &host}) {
      if (!*at) continue;
      (*at)->from = std::max((*at)->from, processor_free_);
      (*at)->begin = std::max((*at)->begin, processor_free_);
    }
    const bool both = compute && host;
    const bool same = both && compute->begin == host->begin;
    const bool take_host =
        !compute || (both && (same ? !host_was_last_ : host->begin < compute->begin));
    advance(lanes_[take_host ? kHost : kCompute], take_host ? *host : *compute);
    host_was_last_ = take_host;
    return true;
  }

  // Opens the next cycle; whether the one that is through took as long, and left as much, as the
  // one before.
  bool end_cycle() {
    constexpr int kMostCycles = 12;
    constexpr double kSame = 1e-9;
    double end = norm_known_ ? norm_[static_cast<size_t>(cycle()) % 2] : 0;
    for (size_t l = 0; l < lanes_.size(); ++l) {
      if (lanes_[l].actions.empty()) continue;
      if (plan_.overlap && l != kCompute && l != kToHost) continue;
      HETMEM_ASSERT(lanes_[l].cycle > cycle());
      end = std::max(end, lanes_[l].free);
    }
    const double period = end - start_.back();
    double lag = 0;
    for (const double free : disk_free_) lag = std::max(lag, free - end);
    for (const Queue& lane : lanes_) {
      lag = std::max(lag, lane.free - end);
      const bool under_way = !lane.actions.empty() && lane.cycle <= cycle();
      if (under_way) lag += static_cast<double>(lane.actions.size() - lane.at);
    }
    const double most = kSame * period;
    const bool same = std::abs(period - period_) <= most && std::abs(lag - lag_) <= most;
    result_.exposed_seconds = exposed_;
    period_ = period;
    lag_ = lag;
    if (!plan_.overlap || lag == 0 || same || cycle() + 1 >= kMostCycles) return true;
    start_.push_back(end);
    norm_known_ = false;
    ran_before_update_ = 0;
    before_update_end_ = 0;
    exposed_ = 0;
    return false;
  }

  const AccessTrace& trace_;
  const Plan& plan_;
  const CopyRates& rates_;
  const size_t size_;
  Simulation result_;
  std::array<Queue, kLanes> lanes_;
  std::vector<double> seconds_;                      // by action, without the disk
  std::vector<std::array<double, 3>> disk_seconds_;  // by action
  std::vector<int> early_of_;                        // actions, by chunk
  int outputs_ = -1;
  int before_update_ = 0;      // actions
  std::vector<double> start_;  // by cycle
  // Of the last two cycles.
  std::array<std::vector<SimulatedAction>, 2> ran_;
  std::array<double, 2> norm_{};
  std::vector<int> done_;  // by action: the last cycle that ran it
  // Of the cycle under way.
  bool norm_known_ = false;
  int ran_before_update_ = 0;
  double before_update_end_ = 0;
  double exposed_ = 0;
  double processor_free_ = 0;          // of compute and the host, where they share one
  std::array<double, 3> disk_free_{};  // of reads, writes, both
  bool host_was_last_ = false;
  bool last_ = false;   // no other cycle begins
  double period_ = -1;  // of the cycle before
  double lag_ = -1;
};

}  // namespace

Simulation simulate(const AccessTrace& trace, const Plan& plan, const CopyRates& rates) {
  return Clock(trace, plan, rates).run();
}

double disk_seconds(const DiskUse& use, const CopyRates& rates) {
  const std::array<double, 3> parts = disk_parts(use, rates);
  return *std::max_element(parts.begin(), parts.end());
}

}  // namespace hetmem
