// By which way a disk tier reaches its disk.
#include <cerrno>
#include <cstring>

#include "core/fault_plan.h"
#include "offload/disk_tier.h"
#include "tests/offload/disk_fixture.h"

namespace hetmem {
namespace {

// One ring is there, and one more is one too many: the tier goes on with threads.
TEST(DiskTier, DoesWithThreadsWhereARingIsRefused) {
  if (choose_block_backend().backend != BlockBackend::kIoUring) GTEST_SKIP() << "no io_uring";
  const std::vector<char> payload = random_payload(3 * kPiece, 1);
  for (const char* call : {"1", "2", "3", "4", "5"}) {
    const TemporaryFolder one;
    const TemporaryFolder other;
    Tier host("host", 1 << 20);
    const FaultPlan::Session faults(std::string("disk.ring:") + call + "=EMFILE");
    DiskTier disk(small_options({one.path(), other.path()}), host);
    EXPECT_EQ(faults.fired(), 1);
    EXPECT_EQ(disk.description().find("threads"), 0U) << disk.description();
    EXPECT_TRUE(contains(disk.description(), std::strerror(EMFILE))) << disk.description();
    for (int i = 0; i < 4; ++i) {
      const DiskSlot slot = disk.allocate("w", 3 * kPiece, MemoryKind::kOptimizer);
      std::vector<char> back(payload.size());
      disk.write(slot, payload.data(), 0).wait();
      disk.read(slot, back.data(), 0).wait();
      EXPECT_EQ(back, payload);
    }
  }
  const TemporaryFolder folder;
  DiskOptions asked = small_options({folder.path()});
  asked.backend = BlockBackend::kIoUring;
  Tier host("host", 1 << 20);
  const FaultPlan::Session faults("disk.ring:1=EMFILE");
  error_of(ErrorKind::kStorage, [&] { const DiskTier disk(asked, host); });
}

TEST(DiskTier, SaysHowItReachesTheDisk) {
  const TemporaryFolder folder;
  Tier host("host", 1 << 20);
  DiskOptions options = small_options({folder.path()});
  options.backend = BlockBackend::kThreads;
  const std::string text = DiskTier(options, host).description();
  EXPECT_TRUE(text == "threads, direct (as asked)" ||
              text == "threads, through the page cache (as asked)")
      << text;
}

}  // namespace
}  // namespace hetmem
