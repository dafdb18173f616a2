#include "tests/planner/plan_check.h"

#include <algorithm>

namespace hetmem::plan_check {

Order::Order(const Plan& plan) : plan_(plan), size_(static_cast<int>(plan.actions.size())) {
  last_.fill(-1);
  step_ends_.fill(-1);
  for (int step = 0; step < 2; ++step) {
    for (int i = 0; i < size_; ++i) add(step, i);
    step_ends_ = last_;
  }
}

void Order::join(Places& reached, int node) const {
  const auto at = static_cast<size_t>(node);
  for (size_t l = 0; l < kLanes; ++l) reached[l] = std::max(reached[l], reached_[at][l]);
  const Action& action = plan_.actions[at % static_cast<size_t>(size_)];
  int& place = reached[static_cast<size_t>(action.lane)];
  place = std::max(place, place_[at]);
}

void Order::add(int step, int i) {
  const Action& action = plan_.actions[static_cast<size_t>(i)];
  const auto lane = static_cast<size_t>(action.lane);
  const int first = step * size_;
  Places reached;
  reached.fill(-1);
  if (last_[lane] >= 0) join(reached, last_[lane]);
  for (const int wait : action.waits) {
    if (wait >= 0 && wait < i) join(reached, first + wait);
  }
  for (const int wait : action.carried) {
    if (step > 0) join(reached, wait);
  }
  for (int before = 0; before < std::min(i, plan_.update) && i >= plan_.update; ++before) {
    const bool outputs = plan_.actions[static_cast<size_t>(before)].kind == Action::Kind::kOutputs;
    if (!plan_.overlap || outputs) join(reached, first + before);
  }
  for (size_t l = 0; l < kLanes && step > 0; ++l) {
    const bool passed = l == static_cast<size_t>(Lane::kCompute) ||
                        l == static_cast<size_t>(Lane::kToHost) || !plan_.overlap;
    if (passed && step_ends_[l] >= 0) join(reached, step_ends_[l]);
  }
  place_.push_back(count_[lane]++);
  reached_.push_back(reached);
  last_[lane] = first + i;
}

bool Order::before_in(int before, int after, int step) const {
  const auto lane = static_cast<size_t>(plan_.actions[static_cast<size_t>(before)].lane);
  return reached_[static_cast<size_t>(step + after)][lane] >= place_[static_cast<size_t>(before)];
}

namespace {

// Something that has bytes of the pool while the actions that touch it run.
struct Thing {
  std::string name;
  int64_t offset = 0;
  int64_t bytes = 0;
  std::vector<int> actions;
  bool from_before = false;  // there when the step begins: brought in the step before
  bool to_next = false;      // there when the step ends
};

class Checker {
 public:
  Checker(const AccessTrace& trace, const Plan& plan, const TierBudgets& budgets)
      : trace_(trace), plan_(plan), budgets_(budgets), order_(plan) {}

  std::vector<std::string> run() {
    if (find_actions()) {
      check_budgets();
      check_fixed();
      for (int c = 0; c < static_cast<int>(trace_.chunks.size()); ++c) check_chunk(c);
      for (size_t b = 0; b < trace_.buffers.size(); ++b) add_buffer(b);
      for (int r = 0; r < static_cast<int>(plan_.residencies.size()); ++r) add_residency(r);
      check_overlaps();
    }
    return std::move(problems_);
  }

 private:
  static size_t index(int i) { return static_cast<size_t>(i); }
  const Residency& residency(int r) const { return plan_.residencies[index(r)]; }
  const TraceChunk& chunk(int c) const { return trace_.chunks[index(c)]; }
  bool resident(int c) const { return plan_.resident[index(c)]; }
  void wrong(const std::string& what) { problems_.push_back(what); }
  bool expect(bool right, const std::string& what) {
    if (!right) wrong(what);
    return right;
  }

  // Every op, copy and optimizer step is there once, in the part and on the lane it belongs to.
  bool find_actions() {
    op_.assign(index(trace_.ops()), -1);
    fetch_.assign(plan_.residencies.size(), -1);
    send_.assign(plan_.residencies.size(), -1);
    step_.assign(trace_.chunks.size(), -1);
    early_.assign(trace_.chunks.size(), -1);
    for (int i = 0; i < static_cast<int>(plan_.actions.size()); ++i) find_action(i);
    for (const int at : op_) expect(at >= 0, "an op is not run");
    expect(std::is_sorted(op_.begin(), op_.end()), "ops are not in order");
    expect(inputs_ >= 0 && outputs_ >= 0, "inputs or outputs are not copied");
    for (int r = 0; r < static_cast<int>(plan_.residencies.size()); ++r) {
      expect((fetch_[index(r)] >= 0) == residency(r).fetch, name(r) + ": fetch");
      expect((send_[index(r)] >= 0) == residency(r).send, name(r) + ": send");
    }
    for (int c = 0; c < static_cast<int>(trace_.chunks.size()); ++c) {
      expect((step_[index(c)] >= 0) == chunk(c).trained(), "steps of chunk " + std::to_string(c));
      const bool early = !plan_.early.empty() && plan_.early[index(c)];
      expect((early_[index(c)] >= 0) == early && (!early || (plan_.overlap && !resident(c))),
             "early step of chunk " + std::to_string(c));
    }
    return problems_.empty();
  }

  void find_action(int i) {
    const Action& action = plan_.actions[index(i)];
    for (const int wait : action.waits) {
      expect(wait >= 0 && wait < i, "action " + std::to_string(i) + " waits for a later one");
    }
    const auto once = [&](int& at, Lane lane, bool part) {
      expect(at < 0 && action.lane == lane && part,
             "action " + std::to_string(i) + " is twice, on a wrong lane or in a wrong part");
      at = i;
    };
    const bool step = i < plan_.update;
    const bool update = i >= plan_.update && i < plan_.next;
    switch (action.kind) {
      case Action::Kind::kInputs:
        return once(inputs_, Lane::kCompute, step);
      case Action::Kind::kOutputs:
        return once(outputs_, Lane::kToHost, step);
      case Action::Kind::kOp:
        return once(op_.at(index(action.target)), Lane::kCompute, step);
      case Action::Kind::kFetch:
        return once(fetch_.at(index(action.target)), Lane::kToDevice,
                    step || (i >= plan_.next && residency(action.target).weights));
      case Action::Kind::kSend:
        return once(send_.at(index(action.target)), Lane::kToHost, step);
      case Action::Kind::kEarlyStep:
        return once(early_.at(index(action.target)), Lane::kHost, step);
      case Action::Kind::kDeviceStep:
        return once(step_.at(index(action.target)), Lane::kCompute,
                    update && resident(action.target));
      case Action::Kind::kHostStep:
        return once(step_.at(index(action.target)), Lane::kHost,
                    update && !resident(action.target));
    }
  }

  std::string name(int r) const {
    return "stay " + std::to_string(r) + " of chunk " + std::to_string(residency(r).chunk);
  }

  void check_budgets() {
    int64_t device = plan_.pool_bytes + trace_.fixed_bytes;
    int64_t host = budgets_.disk > 0 ? budgets_.staging : 0;
    int64_t disk = 0;
    for (int c = 0; c < static_cast<int>(trace_.chunks.size()); ++c) {
      const TraceChunk& of = chunk(c);
      if (resident(c)) {
        device += of.weight_bytes + of.optimizer_bytes;
        continue;
      }
      const ChunkPlaces at = plan_.places.empty() ? ChunkPlaces{} : plan_.places[index(c)];
      disk += at.weights_on_disk ? of.weight_bytes + of.weight_trailers : 0;
      disk += at.optimizer_on_disk ? of.optimizer_bytes + of.optimizer_trailers : 0;
      disk += at.gradient_on_disk ? of.gradient_bytes + of.gradient_trailers : 0;
      host += at.weights_on_disk ? 0 : of.weight_bytes;
      host += at.optimizer_on_disk ? 0 : of.optimizer_bytes;
      host += at.gradient_on_disk ? 0 : of.gradient_bytes;
      expect(early_[index(c)] < 0 || !at.any_on_disk(), "a chunk on disk has a spare place");
    }
    host += spare_bytes(trace_, plan_.early);
    expect(device <= budgets_.device, "over the device budget");
    expect(host <= budgets_.host, "over the host budget");
    expect(disk <= budgets_.disk - budgets_.disk_margin || disk == 0, "over the disk budget");
    expect(plan_.device.peak == device && plan_.host.peak == host && plan_.disk.peak == disk,
           "a peak is not what it says");
  }

  void check_fixed() {
    expect(order_.ordered(inputs_, op_.front()), "the first op does not wait for the inputs");
    expect(order_.ordered(op_.back(), outputs_), "outputs leave before the last op");
  }

  // The one stay in which an op finds a chunk's weights or gradient; -1: not exactly one.
  int stay_at(int c, int op, bool gradient) const {
    int found = -1;
    for (int r = 0; r < static_cast<int>(plan_.residencies.size()); ++r) {
      const Residency& stay = residency(r);
      if (stay.chunk != c || !(gradient ? stay.gradient : stay.weights)) continue;
      if (op < stay.first_use || op > stay.last_use) continue;
      if (found >= 0) return -1;
      found = r;
    }
    return found;
  }

  void check_chunk(int c) {
    const std::string who = "chunk " + std::to_string(c);
    for (const int op : chunk(c).reads) {
      if (!resident(c)) check_read(c, op, who + " at op " + std::to_string(op));
    }
    if (chunk(c).trained()) check_gradient(c, who);
  }

  void check_read(int c, int op, const std::string& who) {
    const int r = stay_at(c, op, false);
    if (!expect(r >= 0, who + ": its weights are nowhere, or twice")) return;
    const Residency& stay = residency(r);
    if (!expect(stay.bytes >= chunk(c).weight_bytes, who + ": no room for its weights")) return;
    const int fetch = fetch_[index(r)];
    if (!expect(fetch >= 0, who + ": its weights were not brought")) return;
    const int step = step_[index(c)];
    if (fetch < plan_.update) {
      expect(order_.ordered(fetch, op_[index(op)]), who + ": read before the copy is done");
      expect(step < 0 || order_.ordered_next(step, fetch), who + ": brought before its step");
      expect(step < 0 || order_.ordered(fetch, step), who + ": stepped while it is brought");
    } else {  // brought for the next step, after the optimizer
      expect(order_.ordered_next(fetch, op_[index(op)]), who + ": read before the copy is done");
      expect(step < 0 || order_.ordered(step, fetch), who + ": brought before its step");
      expect(step < 0 || order_.ordered_next(fetch, step), who + ": stepped while it is brought");
    }
    const int early = early_[index(c)];
    expect(early < 0 || order_.ordered_next(fetch, early), who + ": its place is spare too soon");
    if (stay.gradient) {
      expect(chunk(c).in_place, who + ": a gradient took the place of weights that are needed");
    }
  }

  // The gradient is made once, carried on from run to run, and reaches the optimizer complete.
  void check_gradient(int c, const std::string& who) {
    int before = -1;
    for (const OpRun& run : chunk(c).writes) {
      const int r = stay_at(c, run.first, true);
      if (!expect(r >= 0 && stay_at(c, run.last, true) == r, who + ": a gradient has no place")) {
        return;
      }
      const Residency& stay = residency(r);
      expect(stay.bytes >= chunk(c).gradient_bytes, who + ": no room for its gradient");
      if (before < 0) {
        expect(stay.weights || !stay.fetch, who + ": an old gradient is brought");
        expect(!stay.weights || !resident(c), who + ": the only weights are written over");
      } else if (before != r) {
        if (!expect(!stay.weights && stay.fetch && residency(before).send,
                    who + ": a partial gradient is lost")) {
          return;
        }
        expect(order_.ordered(send_[index(before)], fetch_[index(r)]) &&
                   order_.ordered(fetch_[index(r)], op_[index(run.first)]),
               who + ": a partial gradient is read before it is there");
      }
      if (stay.send) {
        expect(order_.ordered(op_[index(run.last)], send_[index(r)]),
               who + ": a gradient is sent before it is complete");
        expect(resident(c) || order_.ordered_next(step_[index(c)], send_[index(r)]),
               who + ": a gradient is written over before its step");
      }
      before = r;
    }
    if (!expect(before >= 0, who + ": it has no gradient")) return;
    if (resident(c)) {
      expect(residency(before).last_use >= trace_.ops(), who + ": no gradient at its step");
    } else {
      if (!expect(residency(before).send, who + ": its gradient stays on the device")) return;
      for (const int step : {step_[index(c)], early_[index(c)]}) {
        expect(step < 0 || order_.ordered(send_[index(before)], step),
               who + ": stepped before its gradient is there");
      }
    }
  }

  void add_buffer(size_t b) {
    const TraceBuffer& buffer = trace_.buffers[b];
    things_.push_back({"buffer " + std::to_string(b),
                       plan_.buffer_offsets[b],
                       buffer.bytes,
                       {op_[index(buffer.first)], op_[index(buffer.last)]}});
  }

  void add_residency(int r) {
    const Residency& stay = residency(r);
    Thing thing{name(r), stay.offset, stay.bytes, {}};
    const auto in = [&](int op) { return op >= stay.first_use && op <= stay.last_use; };
    if (stay.weights) {
      for (const int op : chunk(stay.chunk).reads) {
        if (in(op)) thing.actions.push_back(op_[index(op)]);
      }
    }
    if (stay.gradient) {
      for (const OpRun& run : chunk(stay.chunk).writes) {
        if (in(run.first)) thing.actions.push_back(op_[index(run.first)]);
        if (in(run.last)) thing.actions.push_back(op_[index(run.last)]);
      }
      if (resident(stay.chunk)) thing.actions.push_back(step_[index(stay.chunk)]);
    }
    if (send_[index(r)] >= 0) thing.actions.push_back(send_[index(r)]);
    const int fetch = fetch_[index(r)];
    if (fetch >= plan_.update) {
      Thing next{thing.name + " for the next step", stay.offset, stay.bytes, {fetch}};
      next.to_next = true;
      things_.push_back(std::move(next));
      thing.from_before = true;
    } else if (fetch >= 0) {
      thing.actions.push_back(fetch);
    }
    things_.push_back(std::move(thing));
  }

  bool all_before(const Thing& a, const Thing& b) const {
    if (a.to_next || b.from_before) return false;
    for (const int before : a.actions) {
      for (const int after : b.actions) {
        if (!order_.ordered(before, after)) return false;
      }
    }
    return true;
  }

  // Of two steps that follow each other.
  bool all_before_next(const Thing& a, const Thing& b) const {
    for (const int before : a.actions) {
      for (const int after : b.actions) {
        if (!order_.ordered_next(before, after)) return false;
      }
    }
    return true;
  }

  void check_overlaps() {
    for (const Thing& thing : things_) {
      expect(thing.offset >= 0 && thing.offset + thing.bytes <= plan_.pool_bytes,
             thing.name + " is outside of the pool");
    }
    std::sort(things_.begin(), things_.end(),
              [](const Thing& a, const Thing& b) { return a.offset < b.offset; });
    for (size_t i = 0; i < things_.size(); ++i) {
      const Thing& a = things_[i];
      for (size_t k = i + 1; k < things_.size(); ++k) {
        const Thing& b = things_[k];
        if (b.offset >= a.offset + a.bytes) break;
        if (b.bytes == 0) continue;
        expect(all_before(a, b) || all_before(b, a), a.name + " and " + b.name + " share memory");
        expect(all_before_next(a, b) && all_before_next(b, a),
               a.name + " and " + b.name + " share memory in two steps");
      }
    }
  }

  const AccessTrace& trace_;
  const Plan& plan_;
  const TierBudgets& budgets_;
  const Order order_;
  std::vector<std::string> problems_;
  int inputs_ = -1;  // actions
  int outputs_ = -1;
  std::vector<int> op_;     // by op
  std::vector<int> fetch_;  // by residency
  std::vector<int> send_;   // by residency
  std::vector<int> step_;   // by chunk
  std::vector<int> early_;  // by chunk
  std::vector<Thing> things_;
};

}  // namespace

std::vector<std::string> problems(const AccessTrace& trace, const Plan& plan,
                                  const TierBudgets& budgets) {
  return Checker(trace, plan, budgets).run();
}

}  // namespace hetmem::plan_check
