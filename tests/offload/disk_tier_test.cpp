#include "offload/disk_tier.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <future>
#include <map>
#include <optional>
#include <thread>

#include "core/fault_plan.h"
#include "core/philox.h"
#include "device/cpu/memory_guard.h"
#include "tests/offload/disk_fixture.h"

namespace hetmem {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kTrailer = 72;
constexpr auto kOptimizer = MemoryKind::kOptimizer;

struct Way {
  BlockBackend backend;
  bool encrypt;
};

class DiskTiers : public testing::TestWithParam<Way> {
 protected:
  void SetUp() override {
    if (GetParam().backend == BlockBackend::kIoUring && try_io_uring() != 0) {
      GTEST_SKIP() << "io_uring: " << std::strerror(try_io_uring());
    }
    disk_ = std::make_unique<DiskTier>(options({folder_.path()}), host_);
  }
  DiskOptions options(const std::vector<std::string>& folders) const {
    DiskOptions options = small_options(folders);
    options.backend = GetParam().backend;
    options.encrypt = GetParam().encrypt;
    return options;
  }
  // Why a slot cannot be read.
  std::string fault_of(const DiskSlot& slot, int64_t generation,
                       ErrorKind kind = ErrorKind::kCorrupt) {
    std::vector<char> back(static_cast<size_t>(slot.bytes()));
    const std::string message =
        error_of(kind, [&] { disk_->read(slot, back.data(), generation).wait(); });
    EXPECT_TRUE(contains(message, "chunk " + slot.name())) << message;
    return message;
  }
  void expect_reads(const DiskSlot& slot, const std::vector<char>& payload, int64_t generation) {
    std::vector<char> back(payload.size());
    disk_->read(slot, back.data(), generation).wait();
    EXPECT_EQ(back, payload);
  }

  TemporaryFolder folder_;
  Tier host_{"host", 1 << 20};
  std::unique_ptr<DiskTier> disk_;
};

TEST_P(DiskTiers, EveryLengthComesBack) {
  for (const int64_t bytes : {int64_t{1}, kBlockBytes - kTrailer - 1, kBlockBytes - kTrailer,
                              kBlockBytes - kTrailer + 1, kBlockBytes, kPiece - kTrailer,
                              kPiece - kTrailer + 1, kPiece, kPiece + 1, 5 * kPiece + 777}) {
    const std::vector<char> payload = random_payload(bytes + 1, static_cast<uint64_t>(bytes));
    const DiskSlot slot = disk_->allocate("c", bytes, kOptimizer);
    std::vector<char> back(static_cast<size_t>(bytes) + 2, 'x');
    // From and to addresses that are aligned to nothing.
    disk_->write(slot, payload.data() + 1, 3).wait();
    disk_->read(slot, back.data() + 1, 3).wait();
    EXPECT_EQ(std::memcmp(back.data() + 1, payload.data() + 1, static_cast<size_t>(bytes)), 0);
    EXPECT_EQ(back.front(), 'x');
    EXPECT_EQ(back.back(), 'x');
  }
}

TEST_P(DiskTiers, ManyAreUnderWayAtOnce) {
  constexpr int64_t kBytes = 3 * kPiece + 5;
  std::vector<DiskSlot> slots;
  std::vector<std::vector<char>> payloads;
  for (int i = 0; i < 20; ++i) {
    slots.push_back(disk_->allocate("c" + std::to_string(i), kBytes, kOptimizer));
    payloads.push_back(random_payload(kBytes, static_cast<uint64_t>(i)));
  }
  for (int64_t generation = 0; generation < 3; ++generation) {
    std::vector<std::vector<char>> back(20, std::vector<char>(kBytes));
    std::vector<DiskOperation> operations;
    for (size_t i = 0; i < 20; ++i) {
      payloads[i][0] = static_cast<char>(generation);
      operations.push_back(disk_->write(slots[i], payloads[i].data(), generation));
    }
    for (size_t i = 0; i < 20; ++i) {
      operations[i].wait();
      operations[i] = disk_->read(slots[i], back[i].data(), generation);
    }
    for (DiskOperation& operation : operations) operation.wait();
    EXPECT_EQ(back, payloads);
  }
  const int64_t moved = 3 * 20 * DiskTier::stored_bytes(kBytes);
  EXPECT_EQ(disk_->written_bytes(), moved);
  EXPECT_EQ(disk_->read_bytes(), moved);
}

TEST_P(DiskTiers, TheCallersDataIsNotChanged) {
  const std::vector<char> payload = random_payload(2 * kPiece, 1);
  const std::vector<char> copy = payload;
  const DiskSlot slot = disk_->allocate("c", 2 * kPiece, kOptimizer);
  disk_->write(slot, payload.data(), 0).wait();
  EXPECT_EQ(payload, copy);
}

// Any bit of payload or trailer; what lies between them is nobody's.
TEST_P(DiskTiers, AFlippedBitIsFound) {
  constexpr int64_t kBytes = kPiece + 100;
  const std::vector<char> payload = random_payload(kBytes, 2);
  const DiskSlot slot = disk_->allocate("m of chunk 3", kBytes, kOptimizer);
  const int64_t stored = DiskTier::stored_bytes(kBytes);
  disk_->write(slot, payload.data(), 0).wait();
  std::vector<int64_t> bytes;
  for (int64_t i = 0; i < kTrailer; ++i) bytes.push_back(stored - kTrailer + i);
  for (uint64_t i = 0; i < 40; ++i) bytes.push_back(philox(4, 0, i)[0] % kBytes);
  bytes.insert(bytes.end(), {0, kBlockBytes - 1, kPiece - 1, kPiece, kBytes - 1});
  for (const int64_t byte : bytes) {
    const int64_t bit = (slot.offset() + byte) * 8 + byte % 8;
    flip_bit_on_disk(slot.path(), bit);
    fault_of(slot, 0);
    flip_bit_on_disk(slot.path(), bit);
  }
  flip_bit_on_disk(slot.path(), (slot.offset() + kBytes) * 8);
  expect_reads(slot, payload, 0);
}

TEST_P(DiskTiers, AStaleSlotIsFoundAndSoIsAStaleBlock) {
  const int64_t stored = DiskTier::stored_bytes(3 * kPiece);
  const DiskSlot slot = disk_->allocate("c", 3 * kPiece, kOptimizer);
  disk_->write(slot, random_payload(3 * kPiece, 1).data(), 6).wait();
  const std::vector<char> old = bytes_on_disk(slot.path(), slot.offset(), stored);
  const std::vector<char> payload = random_payload(3 * kPiece, 2);
  disk_->write(slot, payload.data(), 7).wait();
  expect_reads(slot, payload, 7);
  const std::vector<char> now = bytes_on_disk(slot.path(), slot.offset(), stored);
  overwrite_on_disk(slot.path(), slot.offset(), old);
  EXPECT_TRUE(contains(fault_of(slot, 7), "stale: generation 6 instead of 7"));
  for (int64_t at = 0; at < stored; at += kBlockBytes) {
    overwrite_on_disk(slot.path(), slot.offset(), now);
    overwrite_on_disk(slot.path(), slot.offset() + at,
                      {old.begin() + at, old.begin() + at + kBlockBytes});
    fault_of(slot, 7);
  }
  overwrite_on_disk(slot.path(), slot.offset(), now);
  expect_reads(slot, payload, 7);
}

// Through the seam, whatever the backend: a write that the disk forgets or gets wrong, and a bit
// that turns on the way back. A slot that is written again is well.
TEST_P(DiskTiers, WhatADiskGetsWrongIsFoundWhenItIsRead) {
  const DiskSlot slot = disk_->allocate("m of chunk 3", 4 * kPiece, kOptimizer);
  int64_t generation = 0;
  disk_->write(slot, random_payload(4 * kPiece, 0).data(), generation).wait();
  // Five pieces; the last holds the trailer.
  for (int call = 1; call <= 5; ++call) {
    for (const char* fault : {"disk.write:%=stale", "disk.write:%=flip", "disk.read:%=flip"}) {
      const std::vector<char> payload =
          random_payload(4 * kPiece, static_cast<uint64_t>(++generation));
      std::string text = fault;
      text.replace(text.find('%'), 1, std::to_string(call));
      {
        const FaultPlan::Session faults(text);
        disk_->write(slot, payload.data(), generation).wait();
        std::vector<char> back(payload.size());
        std::string message;
        try {
          disk_->read(slot, back.data(), generation).wait();
        } catch (const Error& error) {
          EXPECT_EQ(error.kind(), ErrorKind::kCorrupt);
          message = error.what();
        }
        EXPECT_EQ(faults.fired(), 1) << text;
        // A bit of what fills the last block up is no one's, whichever call that block is.
        if (message.empty()) {
          EXPECT_FALSE(contains(text, "stale")) << text;
          EXPECT_EQ(back, payload) << text;
        } else {
          EXPECT_TRUE(contains(message, "chunk m of chunk 3")) << message;
          EXPECT_TRUE(contains(message, "resume from a checkpoint")) << message;
        }
      }
      disk_->write(slot, payload.data(), ++generation).wait();
      expect_reads(slot, payload, generation);
    }
  }
}

TEST_P(DiskTiers, SwappedSlotsAndThoseOfAnotherRunAreFound) {
  const TemporaryFolder elsewhere;
  DiskTier other(options({elsewhere.path()}), host_);
  const std::vector<char> payload = random_payload(kPiece, 1);
  const int64_t stored = DiskTier::stored_bytes(kPiece);
  const DiskSlot first = disk_->allocate("first", kPiece, kOptimizer);
  const DiskSlot second = disk_->allocate("second", kPiece, kOptimizer);
  const DiskSlot foreign = other.allocate("foreign", kPiece, kOptimizer);
  disk_->write(first, payload.data(), 0).wait();
  disk_->write(second, payload.data(), 0).wait();
  other.write(foreign, payload.data(), 0).wait();
  const auto content = [&](const DiskSlot& slot) {
    return bytes_on_disk(slot.path(), slot.offset(), stored);
  };
  const std::vector<char> kept = content(first);
  overwrite_on_disk(first.path(), first.offset(), content(second));
  EXPECT_TRUE(contains(fault_of(first, 0), "another chunk"));
  overwrite_on_disk(first.path(), first.offset(), content(foreign));
  EXPECT_TRUE(contains(fault_of(first, 0), "another run"));
  overwrite_on_disk(first.path(), first.offset(), kept);
  expect_reads(first, payload, 0);
}

TEST_P(DiskTiers, WhatWasNeverWrittenIsNoChunk) {
  DiskSlot slot = disk_->allocate("c", 100, kOptimizer);
  EXPECT_TRUE(contains(fault_of(slot, 0), "there is no chunk"));
  disk_->write(slot, random_payload(100, 1).data(), 0).wait();
  const int64_t offset = slot.offset();
  slot = DiskSlot();
  slot = disk_->allocate("d", 100, kOptimizer);
  ASSERT_EQ(slot.offset(), offset);
  EXPECT_TRUE(contains(fault_of(slot, 0), "another chunk"));
}

TEST_P(DiskTiers, AFileThatWasCutIsAShortRead) {
  const DiskSlot slot = disk_->allocate("c", 2 * kPiece, kOptimizer);
  const std::vector<char> payload = random_payload(2 * kPiece, 1);
  disk_->write(slot, payload.data(), 0).wait();
  fs::resize_file(slot.path(), static_cast<uintmax_t>(slot.offset() + kPiece + kBlockBytes));
  EXPECT_TRUE(contains(fault_of(slot, 0, ErrorKind::kStorage), "4096 of 8192 bytes moved"));
  fs::resize_file(slot.path(), static_cast<uintmax_t>(slot.offset()));
  EXPECT_TRUE(contains(fault_of(slot, 0, ErrorKind::kStorage), "0 of 8192 bytes moved"));
  disk_->write(slot, payload.data(), 1).wait();  // grows the file again
  expect_reads(slot, payload, 1);
}

TEST_P(DiskTiers, OnlyTheCipherHidesThePayload) {
  const std::vector<char> payload = random_payload(kPiece, 1);
  const DiskSlot slot = disk_->allocate("c", kPiece, kOptimizer);
  disk_->write(slot, payload.data(), 0).wait();
  const std::vector<char> first = bytes_on_disk(slot.path(), slot.offset(), kPiece);
  EXPECT_EQ(first == payload, !GetParam().encrypt);
  disk_->write(slot, payload.data(), 1).wait();
  EXPECT_EQ(bytes_on_disk(slot.path(), slot.offset(), kPiece) == first, !GetParam().encrypt);
  expect_reads(slot, payload, 1);
}

// Slots come and go, are written and read by several threads; a map says what must come back.
TEST_P(DiskTiers, AreAMapFromSlotsToTheirLastPayload) {
  const auto work = [&](uint64_t thread) {
    struct Held {
      DiskSlot slot;
      std::vector<char> payload;
      int64_t generation = -1;
    };
    std::map<uint32_t, Held> held;
    for (uint64_t i = 0; i < 120; ++i) {
      const auto bits = philox(9, thread, i);
      const uint32_t key = bits[0] % 4;
      Held& at = held[key];
      switch (bits[1] % 4) {
        case 0:
          at.slot = DiskSlot();
          at = {disk_->allocate("t" + std::to_string(thread), 1 + bits[2] % 40000, kOptimizer), {}};
          break;
        case 1:
        case 2:
          if (at.slot.bytes() == 0) break;
          at.payload = random_payload(at.slot.bytes(), bits[2]);
          at.generation += 1 + bits[3] % 3;
          disk_->write(at.slot, at.payload.data(), at.generation).wait();
          break;
        default:
          if (at.generation >= 0) expect_reads(at.slot, at.payload, at.generation);
      }
    }
    for (const auto& [key, at] : held) {
      if (at.generation >= 0) expect_reads(at.slot, at.payload, at.generation);
    }
  };
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 3; ++t) threads.emplace_back(work, t);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(disk_->tier().used(), 0);
}

TEST_P(DiskTiers, WorkUnderTheMemoryGuard) {
  const MemoryGuard::Session guard;
  Tier host("host", 1 << 20);
  DiskOptions guarded = options({folder_.path()});
  guarded.backend.reset();
  DiskTier disk(guarded, host);
  Buffer data(host, 3 * kPiece, MemoryKind::kWeights, MemorySpace::kHost);
  Buffer back(host, 3 * kPiece, MemoryKind::kWeights, MemorySpace::kHost);
  std::memset(data.data(), 5, 3 * kPiece);
  const DiskSlot slot = disk.allocate("c", 3 * kPiece, kOptimizer);
  disk.write(slot, data.data(), 0).wait();
  disk.read(slot, back.data(), 0).wait();
  EXPECT_EQ(std::memcmp(back.data(), data.data(), 3 * kPiece), 0);
}

INSTANTIATE_TEST_SUITE_P(
    Ways, DiskTiers,
    testing::Values(Way{BlockBackend::kIoUring, false}, Way{BlockBackend::kIoUring, true},
                    Way{BlockBackend::kThreads, false}, Way{BlockBackend::kThreads, true}),
    [](const auto& way) {
      return std::string(name_of(way.param.backend)) + (way.param.encrypt ? "_encrypted" : "");
    });

TEST(DiskTier, EveryByteIsAccountedFor) {
  const TemporaryFolder folder;
  Tier host("host", 1 << 20);
  const DiskOptions options = small_options({folder.path()});
  {
    DiskTier disk(options, host);
    EXPECT_EQ(host.used(), 2 * 3 * kPiece);  // two directions of three pieces
    EXPECT_EQ(host.used(), DiskTier::staging_bytes(options));
    EXPECT_EQ(host.peak_by_kind()[static_cast<size_t>(MemoryKind::kStaging)], host.used());
    const DiskSlot one = disk.allocate("one", kBlockBytes, kOptimizer);  // and its trailer
    EXPECT_EQ(disk.tier().used(), 2 * kBlockBytes);
    { const DiskSlot two = disk.allocate("two", 1, MemoryKind::kWeights); }
    EXPECT_EQ(disk.tier().used(), 2 * kBlockBytes);
    EXPECT_EQ(disk.tier().peak(), 3 * kBlockBytes);
    EXPECT_EQ(disk.tier().peak_by_kind()[static_cast<size_t>(MemoryKind::kWeights)], kBlockBytes);
    EXPECT_EQ(disk.tier().budget(), 1 << 20);
    EXPECT_EQ(fs::file_size(one.path()), 1U << 20);
  }
  EXPECT_EQ(host.used(), 0);
  EXPECT_TRUE(folder.entries().empty());
}

TEST(DiskTier, WhatDoesNotFitIsRefused) {
  const TemporaryFolder folder;
  Tier host("host", 1 << 20);
  DiskTier disk(small_options({folder.path()}), host);
  const std::string over =
      error_of(ErrorKind::kDoesNotFit, [&] { disk.allocate("c", (1 << 20) - 71, kOptimizer); });
  for (const char* part : {"optimizer", "1.00 MiB", "--disk-memory"}) {
    EXPECT_TRUE(contains(over, part)) << over;
  }
  EXPECT_EQ(disk.allocate("c", (1 << 20) - 72, kOptimizer).bytes(), (1 << 20) - 72);
  EXPECT_EQ(disk.tier().used(), 0);
  Tier tight("host", 6 * kPiece - 1);
  EXPECT_TRUE(contains(
      error_of(ErrorKind::kDoesNotFit, [&] { DiskTier(small_options({folder.path()}), tight); }),
      "staging"));
  DiskOptions little = small_options({folder.path(), folder.path()});
  little.budget = 2 * kBlockBytes - 1;
  error_of(ErrorKind::kDoesNotFit, [&] { DiskTier(little, host); });
  DiskOptions too_much = small_options({folder.path()});
  too_much.budget = int64_t{1} << 60;
  error_of(ErrorKind::kStorage, [&] { DiskTier(too_much, host); });
  EXPECT_EQ(folder.entries().size(), 1U);  // that of the first
}

TEST(DiskTier, FoldersTakeTurnsAndShareTheBudget) {
  const TemporaryFolder a;
  const TemporaryFolder b;
  Tier host("host", 1 << 20);
  DiskTier disk(small_options({a.path(), b.path()}), host);
  std::vector<DiskSlot> slots;
  for (int i = 0; i < 4; ++i) slots.push_back(disk.allocate("c", 100000, kOptimizer));
  EXPECT_EQ(fs::file_size(slots[0].path()), 1U << 19);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_TRUE(contains(slots[i].path(), i % 2 == 0 ? a.path() : b.path()));
  }
  slots[1] = DiskSlot();
  slots[3] = DiskSlot();  // b is empty, a is next and has not enough
  const DiskSlot large = disk.allocate("large", 400000, kOptimizer);
  EXPECT_TRUE(contains(large.path(), b.path()));
  // 2^20 bytes less what is taken are there, but in no one piece.
  EXPECT_TRUE(
      contains(error_of(ErrorKind::kDoesNotFit, [&] { disk.allocate("c", 400000, kOptimizer); }),
               "in one piece"));
}

// A disk that hangs does not keep the others from working, nor one direction the other.
TEST(DiskTier, FoldersAndDirectionsAreBusyAtOnce) {
  struct Held final : WatchedDevice {
    Held(std::unique_ptr<BlockDevice> device, std::shared_future<void> gate_)
        : WatchedDevice(std::move(device)), gate(std::move(gate_)) {}
    int64_t wait(int index) override {
      gate.wait();
      return WatchedDevice::wait(index);
    }
    std::shared_future<void> gate;
  };
  const TemporaryFolder a;
  const TemporaryFolder b;
  Tier host("host", 1 << 20);
  std::promise<void> gate;
  DiskOptions options = small_options({a.path(), b.path()});
  int lanes = 0;
  options.make_device = [&, opened = gate.get_future().share()](const BlockFile& file, void*,
                                                                int64_t) {
    std::unique_ptr<BlockDevice> device = make_thread_device(file, 3);
    const bool first = lanes++ == 0;  // reads of a
    return first ? std::make_unique<Held>(std::move(device), opened) : std::move(device);
  };
  DiskTier disk(options, host);
  const std::vector<char> payload = random_payload(5 * kPiece, 1);
  const DiskSlot on_a = disk.allocate("a", 5 * kPiece, kOptimizer);
  const DiskSlot on_b = disk.allocate("b", 5 * kPiece, kOptimizer);
  const DiskSlot also_on_a = disk.allocate("a2", 5 * kPiece, kOptimizer);
  std::vector<char> back_a(payload.size());
  std::vector<char> back_b(payload.size());
  disk.write(on_a, payload.data(), 0).wait();
  DiskOperation held = disk.read(on_a, back_a.data(), 0);
  disk.write(on_b, payload.data(), 0).wait();
  disk.read(on_b, back_b.data(), 0).wait();
  disk.write(also_on_a, payload.data(), 0).wait();
  EXPECT_EQ(back_b, payload);
  EXPECT_FALSE(held.done());
  gate.set_value();
  held.wait();
  EXPECT_EQ(back_a, payload);
}

// The n-th request gives something else than what was asked, for each n of a transfer and each
// kind: that transfer fails and names its chunk, the next does not.
TEST(DiskTier, AFailedRequestFailsItsTransferAlone) {
  struct Failing final : WatchedDevice {
    Failing(std::unique_ptr<BlockDevice> device, const std::map<int, int64_t>& planned)
        : WatchedDevice(std::move(device)), results(planned) {}
    int64_t wait(int index) override {
      const int64_t moved = WatchedDevice::wait(index);
      const auto found = results.find(waits++);
      return found == results.end() ? moved : found->second;
    }
    const std::map<int, int64_t>& results;
    int waits = 0;
  };
  struct Case {
    int64_t result;
    const char* text;
  };
  const TemporaryFolder folder;
  const std::vector<char> payload = random_payload(4 * kPiece, 1);  // five pieces
  for (const Case& fault : {Case{-EIO, "Input/output error"}, Case{-ENOSPC, "No space left"},
                            Case{kBlockBytes, "4096 of 8192 bytes"}, Case{0, "0 of "}}) {
    for (int failing = 0; failing < 5; ++failing) {
      if (fault.result == kBlockBytes && failing == 4) continue;  // all of the last piece
      for (const bool reading : {false, true}) {
        const std::map<int, int64_t> planned{{failing, fault.result}};
        const std::map<int, int64_t> nothing;
        Tier host("host", 1 << 20);
        DiskOptions options = small_options({folder.path()});
        int lanes = 0;
        options.make_device = [&](const BlockFile& file, void*, int64_t) {
          const bool reads = lanes++ == 0;
          return std::make_unique<Failing>(make_thread_device(file, 3),
                                           reads == reading ? planned : nothing);
        };
        DiskTier disk(options, host);
        const DiskSlot bad = disk.allocate("bad", 4 * kPiece, kOptimizer);
        const DiskSlot good = disk.allocate("good", 4 * kPiece, kOptimizer);
        std::vector<char> back(payload.size());
        DiskOperation first = disk.write(bad, payload.data(), 0);
        DiskOperation second = disk.write(good, payload.data(), 0);
        if (reading) {
          first.wait();
          first = disk.read(bad, back.data(), 0);
        }
        const std::string message = error_of(ErrorKind::kStorage, [&] { first.wait(); });
        EXPECT_TRUE(contains(message, fault.text)) << message;
        EXPECT_EQ(error_of(ErrorKind::kStorage, [&] { first.wait(); }), message);  // and again
        EXPECT_TRUE(contains(message, reading ? "read chunk bad from" : "write chunk bad to"));
        second.wait();
        disk.read(good, back.data(), 0).wait();
        EXPECT_EQ(back, payload);
        disk.write(bad, payload.data(), 1).wait();
      }
    }
  }
}

TEST(DiskTier, MistakesOfTheCallerAreNoCrashes) {
  const TemporaryFolder folder;
  Tier host("host", 1 << 20);
  DiskTier disk(small_options({folder.path()}), host);
  const DiskSlot slot = disk.allocate("c", 100, kOptimizer);
  std::vector<char> data(100);
  error_of(ErrorKind::kInternal, [&] { disk.allocate("c", 0, kOptimizer); });
  error_of(ErrorKind::kInternal, [&] { disk.write(slot, data.data(), -1).wait(); });
  error_of(ErrorKind::kInternal, [&] { disk.write(DiskSlot(), data.data(), 0).wait(); });
  disk.write(slot, data.data(), 5).wait();
  error_of(ErrorKind::kInternal, [&] { disk.write(slot, data.data(), 5).wait(); });
  disk.read(slot, data.data(), 5).wait();  // the refused one has given the slot back
}

// Two devices, of reads and of writes, that a test holds up.
struct HeldDisk {
  struct Held final : WatchedDevice {
    using WatchedDevice::WatchedDevice;
    int64_t wait(int index) override {
      opened.wait();
      return WatchedDevice::wait(index);
    }
    std::promise<void> gate;
    std::shared_future<void> opened = gate.get_future().share();
  };
  HeldDisk() {
    DiskOptions options = small_options({folder.path()});
    options.make_device = [&](const BlockFile& file, void*, int64_t) {
      auto device = std::make_unique<Held>(make_thread_device(file, 3));
      devices.push_back(device.get());
      return device;
    };
    disk.emplace(options, host);
  }
  void release_reads() { devices[0]->gate.set_value(); }
  void release_writes() { devices[1]->gate.set_value(); }

  TemporaryFolder folder;
  Tier host{"host", 1 << 20};
  std::vector<Held*> devices;
  std::optional<DiskTier> disk;
};

TEST(DiskTier, ASlotHasOneWriteAtATime) {
  HeldDisk held;
  DiskTier& disk = *held.disk;
  DiskSlot slot = disk.allocate("c", 100, kOptimizer);
  std::vector<char> data(100);
  {
    const DiskOperation writing = disk.write(slot, data.data(), 0);
    error_of(ErrorKind::kInternal, [&] { disk.read(slot, data.data(), 0).wait(); });
    error_of(ErrorKind::kInternal, [&] { disk.write(slot, data.data(), 1).wait(); });
    slot = DiskSlot();  // its place stays taken while bytes move there
    EXPECT_EQ(disk.tier().used(), kBlockBytes);
    EXPECT_NE(disk.allocate("d", 100, kOptimizer).offset(), 0);
    held.release_writes();
  }  // waits
  EXPECT_EQ(disk.tier().used(), 0);
}

TEST(DiskTier, ReadsOfASlotShareIt) {
  HeldDisk held;
  DiskTier& disk = *held.disk;
  const DiskSlot slot = disk.allocate("c", 100, kOptimizer);
  const std::vector<char> payload = random_payload(100, 3);
  std::vector<char> first(100);
  std::vector<char> second(100);
  held.release_writes();
  disk.write(slot, payload.data(), 0).wait();
  DiskOperation reading = disk.read(slot, first.data(), 0);
  DiskOperation also_reading = disk.read(slot, second.data(), 0);
  error_of(ErrorKind::kInternal, [&] { disk.write(slot, payload.data(), 1).wait(); });
  held.release_reads();
  reading.wait();
  also_reading.wait();
  EXPECT_EQ(first, payload);
  EXPECT_EQ(second, payload);
  disk.write(slot, payload.data(), 1).wait();
}

}  // namespace
}  // namespace hetmem
