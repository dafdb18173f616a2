#include "planner/simulate.h"

#include <algorithm>

namespace hetmem {
namespace {

double copy_seconds(int64_t bytes, double rate) {
  return rate > 0 ? static_cast<double>(bytes) / rate : 0.0;
}

}  // namespace

Simulation simulate(const AccessTrace& trace, const Plan& plan, const CopyRates& rates) {
  Simulation result;
  std::array<double, kLanes> free{};
  double update_from = 0;
  for (size_t i = 0; i < plan.actions.size(); ++i) {
    const Action& action = plan.actions[i];
    if (static_cast<int>(i) == plan.update) {
      update_from = *std::max_element(free.begin(), free.end());
    }
    double duration = 0;
    const auto target = static_cast<size_t>(action.target);
    switch (action.kind) {
      case Action::Kind::kInputs:
        result.traffic.to_device += trace.input_bytes;
        duration = copy_seconds(trace.input_bytes, rates.to_device);
        break;
      case Action::Kind::kOutputs:
        result.traffic.to_host += trace.output_bytes;
        duration = copy_seconds(trace.output_bytes, rates.to_host);
        break;
      case Action::Kind::kOp:
        duration = trace.op_seconds[target];
        break;
      case Action::Kind::kFetch:
        result.traffic.to_device += plan.residencies[target].bytes;
        duration = copy_seconds(plan.residencies[target].bytes, rates.to_device);
        break;
      case Action::Kind::kSend:
        result.traffic.to_host += plan.residencies[target].bytes;
        duration = copy_seconds(plan.residencies[target].bytes, rates.to_host);
        break;
      case Action::Kind::kDeviceStep:
        duration = trace.chunks[target].device_step_seconds;
        break;
      case Action::Kind::kHostStep:
        duration = trace.chunks[target].host_step_seconds;
        break;
    }
    double& lane = free[static_cast<size_t>(action.lane)];
    const bool shared = trace.host_shares_compute && action.kind == Action::Kind::kHostStep;
    if (shared) lane = std::max(lane, free[static_cast<size_t>(Lane::kCompute)]);
    double begin = static_cast<int>(i) >= plan.update ? std::max(lane, update_from) : lane;
    double ready = begin;
    for (const int other : action.waits) {
      ready = std::max(ready, result.actions[static_cast<size_t>(other)].end);
    }
    if (action.lane == Lane::kCompute) result.exposed_seconds += ready - begin;
    lane = ready + duration;
    result.busy[static_cast<size_t>(action.lane)] += duration;
    if (shared) free[static_cast<size_t>(Lane::kCompute)] = lane;
    result.actions.push_back({ready, lane});
  }
  result.seconds = *std::max_element(free.begin(), free.end());
  return result;
}

}  // namespace hetmem
