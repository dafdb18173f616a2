#include "planner/actions.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "core/error.h"
#include "planner/host_steps.h"
#include "planner/residency.h"

namespace hetmem::planner {
namespace {

// What lies where in the pool, so that what overlaps with a place is found without a look at the
// rest.
class MemoryIndex {
 public:
  // `place_of(i)`: offset and bytes of each of `count`.
  template <typename PlaceOf>
  MemoryIndex(int64_t pool, size_t count, const PlaceOf& place_of)
      : unit_(std::max<int64_t>(1, pool / kUnits)), at_(kUnits + 2) {
    for (size_t i = 0; i < count; ++i) {
      const auto [offset, bytes] = place_of(i);
      const int64_t first = unit_of(offset);
      for (int64_t unit = first; unit <= unit_of(offset + bytes); ++unit) {
        at_[static_cast<size_t>(unit)].emplace_back(static_cast<int>(i), first);
      }
    }
  }
  // Calls look(i) for all that may overlap, each once.
  template <typename Look>
  void near(int64_t offset, int64_t bytes, const Look& look) const {
    const int64_t first = unit_of(offset);
    for (int64_t unit = first; unit <= unit_of(offset + bytes); ++unit) {
      for (const auto& [i, begin] : at_[static_cast<size_t>(unit)]) {
        if (unit == std::max(first, begin)) look(i);  // the first unit that both have
      }
    }
  }

 private:
  static constexpr int64_t kUnits = 256;
  int64_t unit_of(int64_t offset) const { return std::min(offset / unit_, kUnits + 1); }

  int64_t unit_;
  std::vector<std::vector<std::pair<int, int64_t>>> at_;  // with the first unit of each
};

class ActionBuilder {
 public:
  ActionBuilder(const AccessTrace& trace, Plan& plan, bool placed)
      : trace_(trace), plan_(plan), placed_(placed), update_(trace.ops()) {
    by_op_.assign(static_cast<size_t>(update_) + 1, -1);
    fetch_.assign(plan.residencies.size(), -1);
    send_.assign(plan.residencies.size(), -1);
    device_step_.assign(trace.chunks.size(), -1);
    host_step_.assign(trace.chunks.size(), -1);
    last_send_.assign(trace.chunks.size(), -1);
  }

  void run() {
    plan_.actions.clear();
    group_by_op();
    if (placed_) find_neighbours();
    // On the lane that reads them: on that of copies they would be behind weights that wait for the
    // step before.
    push(Action::Kind::kInputs, Lane::kCompute, 0, {});
    for (int op = 0; op < update_; ++op) {
      for (const int r : fetches_at_[static_cast<size_t>(op)]) push_fetch(r);
      std::vector<int> waits;
      for (const int r : begins_at_[static_cast<size_t>(op)]) {
        // What the fetch of an earlier step brought is here; its action follows in this list.
        if (fetch_[index(r)] >= 0) waits.push_back(fetch_[index(r)]);
      }
      for (const int r : waits_of_op_[static_cast<size_t>(op)]) waits.push_back(send_[index(r)]);
      by_op_[static_cast<size_t>(op)] =
          push(Action::Kind::kOp, Lane::kCompute, op, latest_by_lane(waits));
      // The norm is not behind the last gradients.
      if (op == update_ - 1) push(Action::Kind::kOutputs, Lane::kToHost, 0, {by_op_[index(op)]});
      for (const int r : sends_at_[static_cast<size_t>(op)]) {
        send_[index(r)] = push(Action::Kind::kSend, Lane::kToHost, r, {by_op_[index(op)]});
        last_send_[index(plan_.residencies[index(r)].chunk)] = send_[index(r)];
      }
    }
    push_early();
    push_update();
    push_next();
    if (plan_.overlap) carry();
  }

 private:
  static size_t index(int i) { return static_cast<size_t>(i); }

  int push(Action::Kind kind, Lane lane, int target, std::vector<int> waits) {
    plan_.actions.push_back({kind, lane, target, std::move(waits)});
    return static_cast<int>(plan_.actions.size()) - 1;
  }

  // Of several waits for one lane the last is enough: a lane runs in order.
  std::vector<int> latest_by_lane(const std::vector<int>& waits) const {
    std::vector<int> latest;
    for (const int wait : waits) {
      HETMEM_ASSERT(wait >= 0);
      const Lane lane = plan_.actions[index(wait)].lane;
      const auto same = std::find_if(latest.begin(), latest.end(), [&](int other) {
        return plan_.actions[index(other)].lane == lane;
      });
      if (same == latest.end()) {
        latest.push_back(wait);
      } else {
        *same = std::max(*same, wait);
      }
    }
    return latest;
  }

  void group_by_op() {
    const auto count = static_cast<size_t>(update_) + 1;
    fetches_at_.assign(count, {});
    begins_at_.assign(count, {});
    sends_at_.assign(count, {});
    waits_of_op_.assign(count, {});
    after_op_.assign(plan_.residencies.size(), -1);
    after_sends_.assign(plan_.residencies.size(), {});
    std::vector<int> order;
    for (int r = 0; r < static_cast<int>(plan_.residencies.size()); ++r) order.push_back(r);
    // Copies of one start go in the order in which they are needed.
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
      return plan_.residencies[index(a)].first_use < plan_.residencies[index(b)].first_use;
    });
    for (const int r : order) {
      const Residency& residency = plan_.residencies[index(r)];
      begins_at_[index(residency.first_use)].push_back(r);
      if (residency.send) sends_at_[index(residency.last_use)].push_back(r);
      if (!residency.fetch) continue;
      if (residency.start < 0) {
        before_step_.push_back(r);
      } else {
        fetches_at_[index(residency.start)].push_back(r);
        after_op_[index(r)] = residency.start - 1;
        if (placed_) after_op_[index(r)] = -1;
      }
    }
  }

  bool overlap(int64_t offset, int64_t bytes, const Residency& other) const {
    return offset < other.offset + other.bytes && other.offset < offset + bytes;
  }

  // Who had the memory before: what a fetch waits for, and which ops wait for what was sent away.
  void find_neighbours() {
    const std::vector<TraceBuffer>& buffers = trace_.buffers;
    const std::vector<Residency>& stays = plan_.residencies;
    const MemoryIndex of_buffers(plan_.pool_bytes, buffers.size(), [&](size_t i) {
      return std::pair(plan_.buffer_offsets[i], buffers[i].bytes);
    });
    const MemoryIndex of_stays(plan_.pool_bytes, stays.size(), [&](size_t r) {
      return std::pair(stays[r].offset, stays[r].bytes);
    });
    for (int b = 0; b < static_cast<int>(stays.size()); ++b) {
      const Residency& residency = stays[index(b)];
      if (!residency.fetch && !residency.send) continue;
      const PlannedInterval time = interval_of(residency);
      of_buffers.near(residency.offset, residency.bytes, [&](int i) {
        const TraceBuffer& buffer = buffers[index(i)];
        if (!overlap(plan_.buffer_offsets[index(i)], buffer.bytes, residency)) return;
        if (buffer.last < time.first) after_op(b, buffer.last);
        if (residency.send && time.last < buffer.first) op_waits(buffer.first, b);
      });
      of_stays.near(residency.offset, residency.bytes, [&](int a) {
        const Residency& other = stays[index(a)];
        if (a == b || !overlap(other.offset, other.bytes, residency)) return;
        const PlannedInterval other_time = interval_of(other);
        if (other_time.last < time.first) {
          after_op(b, std::min(other.last_use, update_ - 1));
          if (other.send && residency.fetch) keep_latest(after_sends_[index(b)], a);
        } else if (time.last < other_time.first && residency.send && !other.fetch) {
          op_waits(other.first_use, b);
        }
      });
    }
  }
  void after_op(int residency, int op) {
    after_op_[index(residency)] = std::max(after_op_[index(residency)], op);
  }
  void op_waits(int op, int residency) { keep_latest(waits_of_op_[index(op)], residency); }
  // Of sends that something waits for those of the last op are enough: they go in the order of ops.
  void keep_latest(std::vector<int>& sends, int send) const {
    const auto last_use = [&](int r) { return plan_.residencies[index(r)].last_use; };
    if (!sends.empty() && last_use(send) < last_use(sends.front())) return;
    if (!sends.empty() && last_use(send) > last_use(sends.front())) sends.clear();
    sends.push_back(send);
  }

  void push_fetch(int r) {
    const Residency& residency = plan_.residencies[index(r)];
    std::vector<int> waits;
    if (after_op_[index(r)] >= 0) waits.push_back(by_op_[index(after_op_[index(r)])]);
    for (const int other : after_sends_[index(r)]) waits.push_back(send_[index(other)]);
    if (!residency.weights) {
      // A gradient comes back after it was sent.
      for (int other = r - 1; other >= 0; --other) {
        const Residency& before = plan_.residencies[index(other)];
        if (before.chunk != residency.chunk || !before.send) continue;
        waits.push_back(send_[index(other)]);
        break;
      }
    }
    fetch_[index(r)] = push(Action::Kind::kFetch, Lane::kToDevice, r, latest_by_lane(waits));
  }

  bool early(int c) const { return !plan_.early.empty() && plan_.early[index(c)]; }

  std::vector<int> arrived(int c) const {
    const int send = last_send_[index(c)];
    return send < 0 ? std::vector<int>{} : std::vector<int>{send};
  }

  void push_early() {
    for (const int c : plan_.host_order) {
      if (early(c)) push(Action::Kind::kEarlyStep, Lane::kHost, c, arrived(c));
    }
  }

  // All ops of the step are done when the optimizer begins.
  void push_update() {
    plan_.update = static_cast<int>(plan_.actions.size());
    std::vector<int> host;
    for (int c = 0; c < static_cast<int>(trace_.chunks.size()); ++c) {
      if (!trace_.chunks[index(c)].trained()) continue;
      if (plan_.resident[index(c)]) {
        device_step_[index(c)] = push(Action::Kind::kDeviceStep, Lane::kCompute, c, {});
      } else {
        host.push_back(c);
      }
    }
    if (!plan_.host_order.empty()) host = order_of_update();
    for (const int c : host) {
      host_step_[index(c)] = push(Action::Kind::kHostStep, Lane::kHost, c, arrived(c));
    }
  }

  // In the order of the plan; early chunks, for when they have to be stepped again, among the
  // others as they are needed.
  std::vector<int> order_of_update() const {
    std::vector<int> again;
    std::vector<int> order;
    for (const int c : plan_.host_order) (early(c) ? again : order).push_back(c);
    const auto sooner = [&](int a, int b) {
      return first_use(trace_.chunks[index(a)]) < first_use(trace_.chunks[index(b)]);
    };
    std::stable_sort(again.begin(), again.end(), sooner);
    for (const int c : again) {
      const auto at = std::find_if(order.begin(), order.end(), [&](int o) { return sooner(c, o); });
      order.insert(at, c);
    }
    return order;
  }

  // The weights that the next step begins with, as soon as they are stepped and their place is
  // free.
  void push_next() {
    plan_.next = static_cast<int>(plan_.actions.size());
    for (const int r : before_step_) {
      const Residency& residency = plan_.residencies[index(r)];
      std::vector<int> waits;
      if (host_step_[index(residency.chunk)] >= 0) {
        waits.push_back(host_step_[index(residency.chunk)]);
      }
      for (size_t o = 0; o < plan_.residencies.size() && placed_; ++o) {
        const Residency& other = plan_.residencies[o];
        if (!overlap(other.offset, other.bytes, residency)) continue;
        if (other.last_use >= update_) waits.push_back(device_step_[index(other.chunk)]);
        if (send_[o] >= 0) waits.push_back(send_[o]);
      }
      fetch_[index(r)] = push(Action::Kind::kFetch, Lane::kToDevice, r, latest_by_lane(waits));
    }
  }

  // What a step waits for of the step before: weights that the host was still stepping, its
  // gradient that was still read, and what was brought for the first ops.
  void carry() {
    for (int i = 0; i < plan_.update; ++i) {
      Action& action = plan_.actions[index(i)];
      std::vector<int> carried;
      if (action.kind == Action::Kind::kFetch || action.kind == Action::Kind::kSend) {
        const Residency& residency = plan_.residencies[index(action.target)];
        const int step = host_step_[index(residency.chunk)];
        if (step >= 0 && (residency.weights || residency.send)) carried.push_back(step);
      } else if (action.kind == Action::Kind::kOp) {
        for (const int r : begins_at_[index(action.target)]) {
          if (fetch_[index(r)] >= plan_.next) carried.push_back(fetch_[index(r)]);
        }
      }
      action.carried = latest_by_lane(carried);
    }
  }

  const AccessTrace& trace_;
  Plan& plan_;
  const bool placed_;
  const int update_;
  std::vector<int> by_op_;                     // actions
  std::vector<int> fetch_;                     // by residency
  std::vector<int> send_;                      // by residency
  std::vector<int> device_step_;               // by chunk
  std::vector<int> host_step_;                 // by chunk
  std::vector<int> last_send_;                 // by chunk
  std::vector<std::vector<int>> fetches_at_;   // residencies, by op
  std::vector<std::vector<int>> begins_at_;    // residencies, by op
  std::vector<std::vector<int>> sends_at_;     // residencies, by op
  std::vector<std::vector<int>> waits_of_op_;  // residencies whose sends free memory, by op
  std::vector<int> after_op_;                  // by residency
  std::vector<std::vector<int>> after_sends_;  // residencies, by residency
  std::vector<int> before_step_;               // residencies
};

}  // namespace

void make_actions(const AccessTrace& trace, Plan& plan, bool placed) {
  HETMEM_ASSERT(trace.ops() > 0);
  ActionBuilder(trace, plan, placed).run();
}

}  // namespace hetmem::planner
