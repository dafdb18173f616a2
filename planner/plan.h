// Plan: where every byte of a training step is and what moves when. The executor and the simulator
// follow the same Plan, action by action. A value; thread-safe to read.
//
// The device holds the whole state of the chunks that stay (`resident`), and a pool in which
// everything else has a planned place for a planned time: activations, temporaries, workspace,
// streamed weights, gradients. The host holds the state of the chunks that do not stay, and their
// gradients from the backward pass to the optimizer; what it is too small for is on disk, list by
// list, and passes through staging memory of the host.
//
// With `overlap` the host's optimizer steps go on beside the device: those of `early` chunks begin
// when the gradient has arrived, before the norm is known, and write to spare memory on the host;
// the others begin with the norm, the chunk that is needed soonest first (EDF), and what is not
// done goes on during the next step, which waits chunk by chunk (Action::carried).
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "core/memory_kind.h"
#include "planner/access_trace.h"
#include "planner/homes.h"

namespace hetmem {

struct TierBudgets {
  int64_t device = 0;
  int64_t host = 0;
  int64_t shared = 0;       // > 0: of so much memory the host has what the device leaves
  int64_t disk = 0;         // 0: there is none
  int64_t disk_margin = 0;  // of it: what may be left over
  int64_t staging = 0;      // of the host's memory: what passes to and from the disk
  int64_t staging_bytes() const { return disk > 0 ? staging : 0; }
  // What the host has for chunks.
  int64_t room_of_host() const { return std::max<int64_t>(0, host - staging_bytes()); }
};

// The stay of a chunk's weights, its gradient, or both one after the other, in the pool.
struct Residency {
  int chunk = 0;
  bool weights = false;   // brought before `first_use`
  bool gradient = false;  // made by `first_write`, or brought back before it
  bool fetch = false;     // the contents are copied from the host
  bool send = false;      // the gradient is copied to the host after `last_use`
  int start = 0;  // the op before which the copy to the device is enqueued; -1: before the step
  int first_use = 0;
  int last_use = 0;
  int end = 0;  // the op by which the copy to the host is expected to be done
  int64_t bytes = 0;
  int64_t offset = 0;  // in the pool
  bool operator==(const Residency&) const = default;
};

// An action is on one of the first four; one whose chunk is on disk is on those of the disk, too.
enum class Lane : uint8_t { kCompute, kToDevice, kToHost, kHost, kDiskRead, kDiskWrite };
constexpr int kLanes = 6;

struct Action {
  enum class Kind : uint8_t {
    kInputs,      // tokens and labels to the device
    kOp,          // target: op of the trace
    kFetch,       // target: residency
    kSend,        // target: residency
    kOutputs,     // loss and norms to the host
    kEarlyStep,   // target: chunk, stepped into its spare memory as if nothing were clipped
    kDeviceStep,  // target: chunk
    kHostStep,    // target: chunk; of an early one: nothing, where its early step stands
  };
  Kind kind = Kind::kOp;
  Lane lane = Lane::kCompute;
  int target = 0;
  std::vector<int> waits;      // earlier actions of other lanes
  std::vector<int> carried{};  // actions of the step before, after its `update`
  bool operator==(const Action&) const = default;
};

struct TierPlan {
  int64_t budget = 0;
  int64_t peak = 0;
  BytesByKind by_kind{};
};

struct Traffic {
  int64_t to_device = 0;
  int64_t to_host = 0;
  int64_t disk_read = 0;
  int64_t disk_write = 0;
  bool operator==(const Traffic&) const = default;
};

struct Plan {
  bool fits = false;
  int64_t group = 1;
  std::vector<bool> resident;                  // by chunk
  std::vector<ChunkPlaces> places;             // by chunk; empty: nothing is on disk
  ChunkPlaces places_of(size_t chunk) const {  // of one that stays: none
    return places.empty() || resident[chunk] ? ChunkPlaces{} : places[chunk];
  }
  bool overlap = false;
  std::vector<bool> early;      // by chunk; empty: none
  std::vector<int> host_order;  // the chunks that the host steps; empty: in the order of use
  std::vector<Residency> residencies;
  std::vector<int64_t> buffer_offsets;  // by buffer of the trace, in the pool
  int64_t pool_bytes = 0;
  int64_t pool_lower_bound = 0;
  BytesByKind pool_by_kind{};
  // In the order in which they are enqueued. Those from `update` on belong to the optimizer: they
  // are enqueued when the norm of the gradient is known. Those from `next` on bring the weights
  // that the next step begins with; they run once before the first step, too. The next step begins
  // when compute and what leaves the device are done, without `overlap` when all are.
  std::vector<Action> actions;
  int update = 0;
  int next = 0;

  TierPlan device;
  TierPlan host;
  TierPlan disk;
  Traffic traffic;
  double step_seconds = 0;         // from the start of a step to that of the next
  double exposed_seconds = 0;      // what compute waits for copies
  double lower_bound_seconds = 0;  // no order of its actions is faster
  std::string limited_by;          // what shortens the step most where it is twice as fast
  int64_t smallest_device = -1;    // with this host budget; -1: none is enough
};

// Whether two plans put the same things in the same places in the same order: what runs one can go
// on with the other.
bool same_actions(const Plan& a, const Plan& b);

struct PlanOptions {
  bool prefetch = true;  // false: a chunk is brought when its op is next
  // By chunk: which stay on the device, given (for evaluation beside a training plan).
  const std::vector<bool>* resident = nullptr;
  const std::vector<ChunkPlaces>* places = nullptr;  // with `resident`: where the others are
  // At most so many bytes of state stay on the device.
  int64_t resident_limit = std::numeric_limits<int64_t>::max();
  bool overlap = true;  // false: a step ends when all of its optimizer is done
  bool always = false;  // overlap, with as many early steps as there is memory for, worth it or not
  bool early = true;    // false: no chunk is stepped before the norm is known
};

// Plans one step. Where it does not fit, `fits` is false and `smallest_device` says what would do.
Plan make_plan(const AccessTrace& trace, const TierBudgets& budgets, const CopyRates& rates,
               const PlanOptions& options = {});

// What is counted where, for any choice of chunks that stay; on the host, where nothing is on disk.
int64_t resident_bytes(const AccessTrace& trace, const std::vector<bool>& resident);
int64_t host_bytes(const AccessTrace& trace, const std::vector<bool>& resident);
// Whether host and disk have room for what does not stay.
bool has_room(const AccessTrace& trace, const std::vector<bool>& resident,
              const TierBudgets& budgets);
// What an action moves between host and disk.
DiskUse disk_use(const AccessTrace& trace, const Plan& plan, const Action& action);
// What the host holds beside that for chunks that are stepped early.
int64_t spare_bytes(const AccessTrace& trace, const std::vector<bool>& early);

}  // namespace hetmem
