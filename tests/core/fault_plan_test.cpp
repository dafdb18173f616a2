#include "core/fault_plan.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>

#include "core/error.h"

namespace hetmem {
namespace {

using Kind = Fault::Kind;

TEST(FaultPlan, WithoutOneNothingFails) {
  EXPECT_EQ(next_fault(FaultSite::kFileWrite, "f").kind, Kind::kNone);
  const FaultPlan::Session none("");
  EXPECT_EQ(FaultPlan::active(), nullptr);
}

TEST(FaultPlan, CountsTheCallsOfItsSiteAndSubject) {
  const FaultPlan::Session faults("file.write@model:2=ENOSPC;file.read:3+=short");
  EXPECT_EQ(next_fault(FaultSite::kFileWrite, "a/model").kind, Kind::kNone);
  EXPECT_EQ(next_fault(FaultSite::kFileWrite, "a/other").kind, Kind::kNone);
  EXPECT_EQ(next_fault(FaultSite::kFileSync, "a/model").kind, Kind::kNone);
  const Fault full = next_fault(FaultSite::kFileWrite, "b/model");
  EXPECT_EQ(full.kind, Kind::kError);
  EXPECT_EQ(full.code, ENOSPC);
  EXPECT_EQ(next_fault(FaultSite::kFileWrite, "model").kind, Kind::kNone);
  for (int call = 1; call <= 5; ++call) {
    EXPECT_EQ(next_fault(FaultSite::kFileRead, "x").kind, call < 3 ? Kind::kNone : Kind::kShort);
  }
  EXPECT_EQ(faults.fired(), 4);
}

TEST(FaultPlan, SaysOfAnErrorWhichItIs) {
  const FaultPlan::Session faults("disk.write@/swap/:1=EIO;disk.write:2=stale");
  EXPECT_FALSE(next_fault(FaultSite::kDiskWrite, "/elsewhere/chunks").fails());
  errno = 0;
  EXPECT_TRUE(next_fault(FaultSite::kDiskWrite, "/swap/chunks").fails());
  EXPECT_EQ(errno, EIO);
  errno = 0;
  EXPECT_FALSE(next_fault(FaultSite::kDiskRead, "/swap/chunks").fails());
  EXPECT_EQ(errno, 0);
}

TEST(FaultPlan, EndsWithItsSession) {
  { const FaultPlan::Session faults("tier.reserve:1=fail"); }
  EXPECT_EQ(next_fault(FaultSite::kTierReserve, "host").kind, Kind::kNone);
  const FaultPlan::Session one("copy:1=fail");
  EXPECT_THROW(FaultPlan::Session("copy:1=fail"), Error);
  EXPECT_EQ(next_fault(FaultSite::kCopy, "to_host").kind, Kind::kFail);
}

TEST(FaultPlan, FlipsOneBit) {
  for (int call = 1; call <= 100; ++call) {
    const FaultPlan::Session faults("copy:" + std::to_string(call) + "=flip");
    Fault fault;
    for (int i = 0; i < call; ++i) fault = next_fault(FaultSite::kCopy);
    std::array<unsigned char, 7> bytes{};
    fault.flip_bit(bytes.data(), bytes.size());
    int ones = 0;
    for (const unsigned char byte : bytes) ones += __builtin_popcount(byte);
    EXPECT_EQ(ones, 1);
  }
}

TEST(FaultPlan, KillsTheProcessAtAPoint) {
  const pid_t child = fork();
  if (child == 0) {
    const FaultPlan::Session faults("step.done:3=kill");
    for (int i = 0; i < 2; ++i) kill_point(FaultSite::kStepDone);
    kill_point(FaultSite::kStepBegin);
    kill_point(FaultSite::kStepDone);
    _exit(7);  // not reached
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << status;
}

TEST(FaultPlan, RefusesWhatItDoesNotKnow) {
  for (const char* text : {"file.write",          "file.write:1",
                           "file.write=EIO",      "file.writ:1=EIO",
                           "file.write:0=EIO",    "file.write:x=EIO",
                           "file.write:1x=EIO",   "file.write:=EIO",
                           "file.write:-1=EIO",   "file.write:1=EWHAT",
                           "file.write:1=",       "file.write@:1=EIO",
                           "file.write:1=fail",   "tier.reserve:1=EIO",
                           "tier.reserve:1=flip", "file.sync:1=short",
                           "file.read:1=stale",   "disk.read:1=stale",
                           "disk.write:1=fail",   "disk.reserve:1=short",
                           "disk.ring:1=flip",    "step.done:1=EIO",
                           "step.done@x:1=kill",  "file.write:1=EIO;",
                           ";file.write:1=EIO",   "file.write:1=EIO ",
                           "file.write:++=EIO",   "file.write:9999999999999999999=EIO"}) {
    try {
      const FaultPlan plan(text);
      ADD_FAILURE() << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kBadInput) << text;
    }
  }
}

}  // namespace
}  // namespace hetmem
