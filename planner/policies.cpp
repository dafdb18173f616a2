#include "planner/policies.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace hetmem {
namespace {

constexpr double kPatrickStarMargin = 0.8;  // margin_use_ratio
constexpr int kNever = std::numeric_limits<int>::max();

// The weights of a chunk (with the gradient in their place, where it takes it), or a gradient that
// has a place of its own.
struct Item {
  enum class At : uint8_t { kHost, kDevice, kLeaving };
  int64_t bytes = 0;
  std::vector<int> uses;      // ops
  std::vector<OpRun> pinned;  // it may not go between these
  At at = At::kHost;
  bool dirty = false;  // holds a gradient that the host has not
  bool empty = false;  // holds nothing that is worth a copy to the device
  double gone = 0;     // when the copy to the host is done
};

class Machine {
 public:
  Machine(const AccessTrace& trace, const TierBudgets& budgets, const CopyRates& rates,
          Policy policy)
      : trace_(trace), rates_(rates), synchronous_(policy == Policy::kPatrickStar) {
    find_activations();
    choose_stepped_on_device(budgets, synchronous_ ? kPatrickStarMargin : 1.0);
    limit_ = budgets.device - trace.fixed_bytes - resident_bytes(trace, stepped_on_device_);
    fits_ = host_bytes(trace, stepped_on_device_) <= budgets.host;
    make_items();
  }

  PolicyRun run() {
    constexpr int kSteps = 3;  // the first ones bring the steady state
    for (int step = 0; step < kSteps && fits_; ++step) {
      traffic_ = {};
      compute_ = to_device_ = to_host_ = 0;
      for (Item& item : items_) item.gone = 0;
      run_step();
    }
    return {fits_, compute_, traffic_};
  }

 private:
  static size_t at(int i) { return static_cast<size_t>(i); }
  Item& weights_of(size_t c) { return items_[2 * c]; }
  Item& gradient_of(size_t c) {
    return items_[2 * c + (trace_.chunks[c].in_place && !stepped_on_device_[c] ? 0 : 1)];
  }

  void find_activations() {
    activations_.assign(at(trace_.ops()) + 1, 0);
    for (const TraceBuffer& buffer : trace_.buffers) {
      activations_[at(buffer.first)] += buffer.bytes;
      activations_[at(buffer.last) + 1] -= buffer.bytes;
    }
    std::partial_sum(activations_.begin(), activations_.end(), activations_.begin());
  }

  // The margin of PatrickStar: what weights and activations leave, filled by the first chunks.
  void choose_stepped_on_device(const TierBudgets& budgets, double share) {
    int64_t weights = 0;
    for (const TraceChunk& chunk : trace_.chunks) weights += chunk.weight_bytes;
    const int64_t most = *std::max_element(activations_.begin(), activations_.end());
    const int64_t left = budgets.device - trace_.fixed_bytes - most - weights;
    auto margin = static_cast<int64_t>(share * static_cast<double>(left));
    stepped_on_device_.assign(trace_.chunks.size(), false);
    for (size_t c = 0; c < trace_.chunks.size(); ++c) {
      if (!trace_.chunks[c].trained()) continue;
      margin -= trace_.chunks[c].state_bytes();
      if (margin < 0) break;
      stepped_on_device_[c] = true;
    }
  }

  void make_items() {
    for (size_t c = 0; c < trace_.chunks.size(); ++c) {
      const TraceChunk& chunk = trace_.chunks[c];
      items_.push_back(
          {chunk.weight_bytes, stepped_on_device_[c] ? std::vector<int>{} : chunk.reads, {}});
      items_.push_back({chunk.gradient_bytes, {}, {}});
      if (!chunk.trained()) continue;
      Item& gradient = gradient_of(c);
      for (const OpRun& run : chunk.writes) {
        gradient.uses.insert(gradient.uses.end(), {run.first, run.last});
        gradient.pinned.push_back(run);
      }
      std::sort(gradient.uses.begin(), gradient.uses.end());
    }
  }

  int next_use(const Item& item, int after) const {
    const auto next = std::upper_bound(item.uses.begin(), item.uses.end(), after);
    if (next != item.uses.end()) return *next;
    return item.uses.empty() ? kNever : item.uses.front() + trace_.ops();
  }

  bool needed(const Item& item, int op) const {
    return std::binary_search(item.uses.begin(), item.uses.end(), op) ||
           std::any_of(item.pinned.begin(), item.pinned.end(),
                       [&](const OpRun& run) { return run.first <= op && op <= run.last; });
  }

  void run_step() {
    for (size_t c = 0; c < trace_.chunks.size(); ++c) {
      if (&gradient_of(c) != &weights_of(c)) gradient_of(c).empty = true;
    }
    copy_in(trace_.input_bytes, 0);
    compute_ = std::max(compute_, to_device_);
    for (int op = 0; op < trace_.ops() && fits_; ++op) {
      run_op(op);
      finish_gradients(op);
    }
    copy_out(trace_.output_bytes, compute_);
    compute_ = std::max({compute_, to_device_, to_host_});  // all is done when the optimizer begins
    run_optimizer();
  }

  void run_op(int op) {
    double ready = make_room(op);
    for (size_t i = 0; i < items_.size(); ++i) {
      Item& item = items_[i];
      if (!needed(item, op)) continue;
      if (item.at != Item::At::kDevice) {
        if (!without_copy(i, op)) ready = copy_in(item.bytes, std::max(ready, item.gone));
        item.at = Item::At::kDevice;
      }
      item.empty = false;
      for (const OpRun& run : item.pinned) item.dirty |= run.first <= op && op <= run.last;
    }
    compute_ = ready + trace_.op_seconds[at(op)];
  }

  // A gradient begins; the weights whose place it takes need not be there.
  bool without_copy(size_t i, int op) const {
    const Item& item = items_[i];
    if (item.empty) return true;
    const TraceChunk& chunk = trace_.chunks[i / 2];
    return !synchronous_ && !item.pinned.empty() && op == item.pinned.front().first && i % 2 == 0 &&
           (chunk.reads.empty() || chunk.reads.back() < op);
  }

  // Evicts until what an op needs has room; the time from which it has.
  double make_room(int op) {
    double now = compute_;
    int64_t wanted = activations_[at(op)];
    for (const Item& item : items_) {
      if (needed(item, op)) wanted += item.bytes;
    }
    const auto others = [&] {
      int64_t bytes = 0;
      for (const Item& item : items_) {
        const bool there =
            item.at == Item::At::kDevice || (item.at == Item::At::kLeaving && item.gone > now);
        if (there && !needed(item, op)) bytes += item.bytes;
      }
      return bytes;
    };
    while (wanted + others() > limit_) {
      if (Item* victim = farthest(op)) {
        evict(*victim, now);
        if (synchronous_) now = compute_;
      } else {
        double next = std::numeric_limits<double>::infinity();
        for (const Item& item : items_) {
          if (item.at == Item::At::kLeaving && item.gone > now) next = std::min(next, item.gone);
        }
        if (wanted > limit_) fits_ = false;
        if (!fits_) return now;
        now = next;
      }
    }
    return now;
  }

  Item* farthest(int op) {
    Item* victim = nullptr;
    for (Item& item : items_) {
      if (item.at != Item::At::kDevice || item.bytes == 0 || needed(item, op)) continue;
      if (victim == nullptr || next_use(item, op) > next_use(*victim, op)) victim = &item;
    }
    return victim;
  }

  void evict(Item& item, double now) {
    if (synchronous_ || item.dirty) {
      item.gone = copy_out(item.bytes, now);
      item.at = Item::At::kLeaving;
      item.dirty = false;
      if (synchronous_) {
        compute_ = item.gone;
        item.at = Item::At::kHost;
      }
    } else {
      item.at = Item::At::kHost;
    }
  }

  // Asynchronously, complete gradients leave at once.
  void finish_gradients(int op) {
    for (size_t c = 0; c < trace_.chunks.size() && !synchronous_; ++c) {
      const TraceChunk& chunk = trace_.chunks[c];
      if (chunk.writes.empty() || chunk.writes.back().last != op || stepped_on_device_[c]) continue;
      if (chunk.trained()) evict(gradient_of(c), compute_);
    }
  }

  // On the host a step takes a gradient from the device, and gives the weights back where they are.
  void run_optimizer() {
    double host = compute_;
    for (size_t c = 0; c < trace_.chunks.size(); ++c) {
      const TraceChunk& chunk = trace_.chunks[c];
      if (!chunk.trained()) continue;
      Item& gradient = gradient_of(c);
      double& lane =
          stepped_on_device_[c] || synchronous_ || trace_.host_shares_compute ? compute_ : host;
      if (stepped_on_device_[c]) {
        if (gradient.at != Item::At::kDevice) lane = copy_in(gradient.bytes, lane);
        lane += chunk.device_step_seconds;
      } else {
        if (gradient.at == Item::At::kDevice) lane = copy_out(gradient.bytes, lane);
        lane += chunk.host_step_seconds;
        if (synchronous_ && weights_of(c).at == Item::At::kDevice) {
          lane = copy_in(chunk.weight_bytes, lane);
        } else {
          weights_of(c).at = Item::At::kHost;
        }
      }
      if (&gradient != &weights_of(c)) gradient.at = Item::At::kHost;
      gradient.dirty = false;
    }
    compute_ = std::max(compute_, host);
  }

  double copy_in(int64_t bytes, double from) {
    traffic_.to_device += bytes;
    return to_device_ = std::max(to_device_, from) + seconds(bytes, rates_.to_device);
  }
  double copy_out(int64_t bytes, double from) {
    traffic_.to_host += bytes;
    return to_host_ = std::max(to_host_, from) + seconds(bytes, rates_.to_host);
  }
  static double seconds(int64_t bytes, double rate) {
    return rate > 0 ? static_cast<double>(bytes) / rate : 0.0;
  }

  const AccessTrace& trace_;
  const CopyRates rates_;
  const bool synchronous_;
  bool fits_ = true;
  int64_t limit_ = 0;                    // of activations, weights and gradients
  std::vector<int64_t> activations_;     // by op
  std::vector<bool> stepped_on_device_;  // by chunk: its state stays there
  std::vector<Item> items_;
  Traffic traffic_;
  double compute_ = 0;  // until when each lane is busy
  double to_device_ = 0;
  double to_host_ = 0;
};

}  // namespace

PolicyRun simulate_policy(const AccessTrace& trace, const TierBudgets& budgets,
                          const CopyRates& rates, Policy policy) {
  return Machine(trace, budgets, rates, policy).run();
}

}  // namespace hetmem
