#include "core/fault_plan.h"

#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdlib>

#include "core/error.h"
#include "core/philox.h"

namespace hetmem {
namespace {

using Kind = Fault::Kind;

struct SiteName {
  FaultSite site;
  std::string_view name;
};

constexpr std::array kSites{
    SiteName{FaultSite::kFileOpen, "file.open"},
    SiteName{FaultSite::kFileCreate, "file.create"},
    SiteName{FaultSite::kFileRead, "file.read"},
    SiteName{FaultSite::kFileWrite, "file.write"},
    SiteName{FaultSite::kFileSync, "file.sync"},
    SiteName{FaultSite::kFileRename, "file.rename"},
    SiteName{FaultSite::kDiskCreate, "disk.create"},
    SiteName{FaultSite::kDiskReserve, "disk.reserve"},
    SiteName{FaultSite::kDiskDirect, "disk.direct"},
    SiteName{FaultSite::kDiskRing, "disk.ring"},
    SiteName{FaultSite::kDiskRead, "disk.read"},
    SiteName{FaultSite::kDiskWrite, "disk.write"},
    SiteName{FaultSite::kTierReserve, "tier.reserve"},
    SiteName{FaultSite::kMemoryAllocate, "memory.allocate"},
    SiteName{FaultSite::kCopy, "copy"},
    SiteName{FaultSite::kDirectorySynced, "directory.synced"},
    SiteName{FaultSite::kDirectoryMoved, "directory.moved"},
    SiteName{FaultSite::kDirectoryCommitted, "directory.committed"},
    SiteName{FaultSite::kCheckpointBegin, "checkpoint.begin"},
    SiteName{FaultSite::kCheckpointTensor, "checkpoint.tensor"},
    SiteName{FaultSite::kCheckpointTensors, "checkpoint.tensors"},
    SiteName{FaultSite::kCheckpointState, "checkpoint.state"},
    SiteName{FaultSite::kCheckpointManifest, "checkpoint.manifest"},
    SiteName{FaultSite::kCheckpointPruned, "checkpoint.pruned"},
    SiteName{FaultSite::kStepBegin, "step.begin"},
    SiteName{FaultSite::kStepBackward, "step.backward"},
    SiteName{FaultSite::kStepChunk, "step.chunk"},
    SiteName{FaultSite::kStepDone, "step.done"},
    SiteName{FaultSite::kStepReported, "step.reported"},
};

struct FaultName {
  std::string_view name;
  Fault fault;
};

constexpr std::array kFaults{
    FaultName{"EIO", {Kind::kError, EIO}},
    FaultName{"ENOSPC", {Kind::kError, ENOSPC}},
    FaultName{"EDQUOT", {Kind::kError, EDQUOT}},
    FaultName{"EINTR", {Kind::kError, EINTR}},
    FaultName{"EINVAL", {Kind::kError, EINVAL}},
    FaultName{"EMFILE", {Kind::kError, EMFILE}},
    FaultName{"short", {Kind::kShort}},
    FaultName{"flip", {Kind::kBitFlip}},
    FaultName{"stale", {Kind::kStale}},
    FaultName{"fail", {Kind::kFail}},
    FaultName{"stop", {Kind::kStop}},
    FaultName{"kill", {Kind::kKill}},
};

bool reads_or_writes(FaultSite site) {
  return site == FaultSite::kFileRead || site == FaultSite::kFileWrite ||
         site == FaultSite::kDiskRead || site == FaultSite::kDiskWrite;
}

bool has(FaultSite site, Kind kind) {
  switch (kind) {
    case Kind::kError:
      return site <= FaultSite::kDiskWrite;
    case Kind::kShort:
      return reads_or_writes(site);
    case Kind::kBitFlip:
      return reads_or_writes(site) || site == FaultSite::kCopy;
    case Kind::kStale:
      return site == FaultSite::kFileWrite || site == FaultSite::kDiskWrite;
    case Kind::kFail:
      return site >= FaultSite::kTierReserve && site <= FaultSite::kCopy;
    case Kind::kNone:
      return false;
    case Kind::kStop:
    case Kind::kKill:
      return true;
  }
  return false;
}

[[noreturn]] void refuse(std::string_view text, const std::string& what) {
  throw Error(ErrorKind::kBadInput, "the fault \"" + std::string(text) + "\" " + what +
                                        "; a fault is SITE[@SUBJECT]:N[+]=FAULT");
}

}  // namespace

std::atomic<FaultPlan*> FaultPlan::active_{nullptr};

bool Fault::fails() const {
  if (kind == Kind::kError) errno = code;
  return kind == Kind::kError;
}

void Fault::flip_bit(void* data, int64_t bytes) const {
  if (bytes <= 0) return;
  const uint64_t bit = draw % (static_cast<uint64_t>(bytes) * 8);
  auto* at = static_cast<unsigned char*>(data) + bit / 8;
  *at = static_cast<unsigned char>(*at ^ (1U << bit % 8));
}

FaultPlan::FaultPlan(std::string_view text) {
  while (!text.empty()) {
    const size_t end = text.find(';');
    entries_.push_back(parse(text.substr(0, end)));
    if (end == std::string_view::npos) break;
    text.remove_prefix(end + 1);
    if (text.empty()) refuse(text, "is empty");
  }
}

FaultPlan::Entry FaultPlan::parse(std::string_view text) {
  const size_t equals = text.rfind('=');
  const size_t colon = text.rfind(':', equals);
  if (equals == std::string_view::npos || colon == std::string_view::npos) {
    refuse(text, "has no number of a call or no fault");
  }
  std::string_view site = text.substr(0, colon);
  std::string_view number = text.substr(colon + 1, equals - colon - 1);
  const std::string_view fault = text.substr(equals + 1);
  Entry entry{};
  if (const size_t at = site.find('@'); at != std::string_view::npos) {
    entry.subject = site.substr(at + 1);
    site = site.substr(0, at);
    if (entry.subject.empty()) refuse(text, "has an empty subject");
  }
  bool known = false;
  for (const SiteName& row : kSites) {
    if (row.name == site) {
      entry.site = row.site;
      known = true;
    }
  }
  if (!known) refuse(text, "is at a site that does not exist");
  if (!entry.subject.empty() && entry.site > FaultSite::kCopy) {
    refuse(text, "has a subject at a site that has none");
  }
  for (const FaultName& row : kFaults) {
    if (row.name == fault && has(entry.site, row.fault.kind)) entry.fault = row.fault;
  }
  if (entry.fault.kind == Kind::kNone) refuse(text, "is none that its site has");
  entry.lasting = !number.empty() && number.back() == '+';
  if (entry.lasting) number.remove_suffix(1);
  const auto [stop, code] =
      std::from_chars(number.data(), number.data() + number.size(), entry.call);
  if (code != std::errc() || stop != number.data() + number.size() || entry.call < 1) {
    refuse(text, "is at a call that is no whole number of at least 1");
  }
  return entry;
}

Fault FaultPlan::next(FaultSite site, std::string_view subject) {
  const std::lock_guard lock(mutex_);
  Fault told;
  for (Entry& entry : entries_) {
    if (entry.site != site || subject.find(entry.subject) == std::string_view::npos) continue;
    ++entry.seen;
    const bool now = entry.lasting ? entry.seen >= entry.call : entry.seen == entry.call;
    if (!now || told.kind != Kind::kNone) continue;
    if (entry.fault.kind >= Kind::kStop) {
      ::kill(::getpid(), entry.fault.kind == Kind::kStop ? SIGSTOP : SIGKILL);
      continue;
    }
    told = entry.fault;
    const auto bits = philox(0, 0, static_cast<uint64_t>(entry.seen));
    told.draw = static_cast<uint64_t>(bits[0]) << 32 | bits[1];
    ++fired_;
  }
  return told;
}

int64_t FaultPlan::fired() const {
  const std::lock_guard lock(mutex_);
  return fired_;
}

FaultPlan::Session::Session(std::string_view text) : plan_(text), on_(!text.empty()) {
  if (!on_) return;
  FaultPlan* none = nullptr;
  HETMEM_ASSERT(active_.compare_exchange_strong(none, &plan_));
}

FaultPlan::Session::~Session() {
  if (on_) active_.store(nullptr);
}

std::string FaultPlan::Session::from_environment() {
  const char* text = std::getenv("HETMEM_FAULTS");
  return text == nullptr ? "" : text;
}

}  // namespace hetmem
