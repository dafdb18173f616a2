// FaultPlan: faults that tests inject where this process meets files, disks, memory and copies, and
// points at which they kill it. A seam asks next_fault() at each of its calls and does what it is
// told; without a plan that is one relaxed load.
//
//   const FaultPlan::Session faults("file.write@optimizer.safetensors:3=ENOSPC");   // in a test
//   HETMEM_FAULTS="checkpoint.manifest:2=kill" hetmem train ...                     // or a binary
//
// A plan is a list of SITE[@SUBJECT]:N[+]=FAULT, separated by ';'. It counts the calls of each of
// its faults by itself: those of the site whose subject contains SUBJECT. The N-th (from 1) fails;
// with '+' every later one, too. docs/faults.md lists sites, subjects and faults. Thread-safe.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace hetmem {

enum class FaultSite : uint8_t {
  // Files; the subject is the path.
  kFileOpen,
  kFileCreate,
  kFileRead,
  kFileWrite,
  kFileSync,
  kFileRename,
  // The disk tier; the subject is the path.
  kDiskCreate,
  kDiskReserve,
  kDiskDirect,
  kDiskRing,
  kDiskRead,
  kDiskWrite,
  // Memory; the subject is the name of the tier.
  kTierReserve,
  kMemoryAllocate,
  // Copies between device and host; the subject is to_device, to_host or within.
  kCopy,
  // Points where nothing but `kill` and `stop` makes sense: of an atomic directory, of a
  // checkpoint, of a step.
  kDirectorySynced,
  kDirectoryMoved,
  kDirectoryCommitted,
  kCheckpointBegin,
  kCheckpointTensor,
  kCheckpointTensors,
  kCheckpointState,
  kCheckpointManifest,
  kCheckpointPruned,
  kStepBegin,
  kStepBackward,
  kStepChunk,
  kStepDone,
  kStepReported,
};

struct Fault {
  enum class Kind : uint8_t {
    kNone,
    kError,    // the call fails with errno `code`
    kShort,    // the call moves half of its bytes
    kBitFlip,  // one bit of what is moved is another
    kStale,    // the call says that it wrote, and what was there before stays
    kFail,     // memory is refused, a copy fails
    kStop,     // the process stops by SIGSTOP until it is told to go on; a seam never sees it
    kKill,     // the process ends by SIGKILL; a seam never sees it
  };
  Kind kind = Kind::kNone;
  int code = 0;
  uint64_t draw = 0;  // from the number of the call
  // Whether the call is to fail with an errno, which is then set.
  bool fails() const;
  // Which bit of `bytes` bytes is drawn from the number of the call.
  void flip_bit(void* data, int64_t bytes) const;
};

class FaultPlan {
 public:
  // Throws Error (kBadInput) that says what is wrong: an unknown site or fault, a fault that the
  // site does not have, a number that is none.
  explicit FaultPlan(std::string_view text);
  FaultPlan(const FaultPlan&) = delete;
  FaultPlan& operator=(const FaultPlan&) = delete;

  // Counts a call. Kills or stops the process where the plan says so.
  Fault next(FaultSite site, std::string_view subject);
  // Calls that were told to fail so far.
  int64_t fired() const;

  // The plan of the process, from construction to destruction: one at a time, on or off while
  // nothing that it concerns runs.
  class Session;

  static FaultPlan* active() { return active_.load(std::memory_order_relaxed); }

 private:
  struct Entry {
    FaultSite site;
    std::string subject;
    int64_t call;
    bool lasting;
    Fault fault;
    int64_t seen = 0;
  };
  static Entry parse(std::string_view text);
  static std::atomic<FaultPlan*> active_;

  mutable std::mutex mutex_;
  std::vector<Entry> entries_;
  int64_t fired_ = 0;
};

class FaultPlan::Session {
 public:
  // An empty text: no plan.
  explicit Session(std::string_view text);
  // What HETMEM_FAULTS says.
  static std::string from_environment();
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
  int64_t fired() const { return plan_.fired(); }

 private:
  FaultPlan plan_;
  bool on_;
};

inline Fault next_fault(FaultSite site, std::string_view subject = {}) {
  FaultPlan* plan = FaultPlan::active();
  return plan == nullptr ? Fault{} : plan->next(site, subject);
}

// A point that a test may kill or stop the process at.
inline void kill_point(FaultSite site) { next_fault(site); }

}  // namespace hetmem
