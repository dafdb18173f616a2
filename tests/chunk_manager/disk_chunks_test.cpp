// Chunks whose lists are on disk: nothing is lost on the way between three tiers.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <thread>

#include "chunk_manager/chunk_snapshot.h"
#include "core/error.h"
#include "tests/chunk_manager/chunk_machine.h"
#include "tests/offload/disk_fixture.h"

namespace hetmem {
namespace {

constexpr int64_t kDiskBytes = int64_t{1} << 24;

DiskOptions options_for(const TemporaryFolder& folder, int64_t bytes) {
  DiskOptions options;
  options.folders = {folder.path()};
  options.budget = bytes;
  return options;
}

struct DiskMachine {
  explicit DiskMachine(int64_t disk_bytes = kDiskBytes)
      : staging("staging", int64_t{1} << 28),
        disk(options_for(folder, disk_bytes), staging),
        machine(1 << 20, 1 << 20, {}, &disk) {}

  std::vector<ChunkPlaces> everywhere(const ChunkPlaces& places) const {
    return std::vector<ChunkPlaces>(machine.layout.chunks.size(), places);
  }

  TemporaryFolder folder;
  Tier staging;
  DiskTier disk;
  Machine machine;
};

constexpr ChunkPlaces kAllOnDisk{true, true, true};

TEST(DiskChunks, AreWholeOnDiskAndTakeNoHostMemory) {
  DiskMachine on;
  Machine& machine = on.machine;
  machine.chunks.place(machine.all(false), on.everywhere(kAllOnDisk));
  EXPECT_EQ(machine.host.used(), 0);
  EXPECT_EQ(machine.device.used(), 0);
  machine.fill();
  machine.expect_whole();
  int64_t payload = 0;
  for (int c = 0; c < machine.count(); ++c) payload += machine.bytes(c, false);
  EXPECT_GE(on.disk.tier().used(), payload);
}

// What nobody has written is zero, as it is in memory.
TEST(DiskChunks, BeginAsZeros) {
  DiskMachine on;
  Machine& machine = on.machine;
  machine.chunks.place(machine.all(false), on.everywhere(kAllOnDisk));
  machine.visit_state([&](size_t list, int tensor) {
    machine.chunks.read(static_cast<ChunkList>(list), tensor, [&](const float* data, int64_t n) {
      EXPECT_TRUE(std::all_of(data, data + n, [](float value) { return value == 0.0F; }));
    });
  });
}

TEST(DiskChunks, NothingIsLostBetweenThreeTiers) {
  DiskMachine on;
  Machine& machine = on.machine;
  std::mt19937 random(5);
  machine.chunks.place(machine.all(false));
  machine.fill();
  for (int round = 0; round < 40; ++round) {
    std::vector<bool> resident;
    std::vector<ChunkPlaces> places;
    for (int c = 0; c < machine.count(); ++c) {
      resident.push_back(random() % 3 == 0);
      places.push_back({random() % 2 == 0, random() % 2 == 0, random() % 2 == 0});
    }
    machine.chunks.place(resident, places);
    machine.expect_whole();
    int64_t on_host = 0;
    for (int c = 0; c < machine.count(); ++c) {
      const auto at = static_cast<size_t>(c);
      const ChunkShape& shape = machine.layout.chunks[at];
      if (resident[at]) continue;
      on_host += places[at].weights_on_disk ? 0 : shape.weight_bytes();
      const int64_t optimizer = shape.low_bytes() + (shape.trained ? 2 * shape.list_bytes() : 0);
      on_host += places[at].optimizer_on_disk ? 0 : optimizer;
      on_host += places[at].gradient_on_disk || !shape.trained ? 0 : shape.list_bytes();
    }
    EXPECT_EQ(machine.host.used(), on_host) << round;
  }
}

// Two chunks change places while the host is full: one of them goes by way of the disk.
TEST(DiskChunks, MoveWhereNoMemoryHasRoom) {
  DiskMachine on;
  Machine& machine = on.machine;
  std::vector<bool> resident = machine.all(false);
  machine.chunks.place(resident);
  machine.fill();
  std::vector<ChunkPlaces> places(resident.size());
  const auto exchange = [&](bool weights) {
    places[0] = {weights, !weights, !weights};
    places[1] = {!weights, weights, weights};
    machine.chunks.place(resident, places);
    machine.expect_whole();
  };
  exchange(false);
  const int64_t used = machine.host.used();
  exchange(true);
  const int64_t free = machine.host.budget() - std::max(used, machine.host.used());
  const Reservation rest = machine.host.reserve(free, MemoryKind::kWorkspace);
  exchange(false);
  exchange(true);
}

// A move takes no second place for lists that stay on disk: their pages stay what they are.
TEST(DiskChunks, PagesThatStayOnDiskStayWhereTheyAre) {
  DiskMachine on;
  Machine& machine = on.machine;
  machine.chunks.place(machine.all(false), on.everywhere({true, false, true}));
  machine.fill();
  const auto page = [&] {
    const DiskPage& first = machine.chunks.pages(ChunkList::kSecondMoment, 0).front();
    return std::pair{first.slot.offset(), first.generation};
  };
  const auto before = page();
  const int64_t free = on.disk.tier().budget() - on.disk.tier().used();
  const Reservation rest = on.disk.tier().reserve(free, MemoryKind::kWorkspace);
  machine.chunks.place(machine.all(false), on.everywhere({false, false, true}));
  EXPECT_EQ(page(), before);
  machine.expect_whole();
}

TEST(DiskChunks, ADiskWithoutRoomLeavesChunksWhole) {
  DiskMachine on(int64_t{1} << 16);
  Machine& machine = on.machine;
  machine.chunks.place(machine.all(false));
  machine.fill();
  const std::string text = error_of(ErrorKind::kDoesNotFit, [&] {
    machine.chunks.place(machine.all(false), on.everywhere(kAllOnDisk));
  });
  EXPECT_TRUE(contains(text, "disk")) << text;
  machine.expect_whole();
}

TEST(DiskChunks, AFlippedBitIsAnErrorThatNamesTheChunk) {
  DiskMachine on;
  Machine& machine = on.machine;
  machine.chunks.place(machine.all(false), on.everywhere(kAllOnDisk));
  machine.fill();
  const DiskPage& page = machine.chunks.pages(ChunkList::kSecondMoment, 0).front();
  flip_bit_on_disk(page.slot.path(), 8 * (page.slot.offset() + 100));
  const std::string text = error_of(ErrorKind::kCorrupt, [&] { machine.expect_whole(); });
  EXPECT_TRUE(contains(text, "second moment")) << text;
}

// A snapshot reads what is on disk there; who would change it waits until it has been read.
TEST(DiskChunks, AreReadByASnapshotBeforeTheyChange) {
  DiskMachine on;
  Machine& machine = on.machine;
  machine.chunks.place(machine.all(false), on.everywhere({true, true, false}));
  machine.fill();
  ChunkSnapshot snapshot(machine.chunks, machine.transfers);
  CpuStream host("host", machine.pool, MemorySpace::kHost);
  std::thread reader([&] {
    int64_t wrong = 0;
    machine.visit_state([&](size_t list, int tensor) {
      int64_t next = 0;
      snapshot.read(static_cast<ChunkList>(list), tensor, [&](const float* data, int64_t n) {
        for (int64_t i = 0; i < n; ++i) {
          wrong += data[i] == value_of(list, tensor, next++) ? 0 : 1;
        }
      });
    });
    EXPECT_EQ(wrong, 0);
  });
  for (int c = 0; c < machine.count(); ++c) {
    machine.chunks.before_change(c, host);
    if (!machine.layout.chunks[static_cast<size_t>(c)].trained) continue;
    DiskPage& page = machine.chunks.pages(ChunkList::kWeights, c).front();
    const std::vector<char> other(static_cast<size_t>(page.slot.bytes()), 'x');
    on.disk.write(page.slot, other.data(), ++page.generation).wait();
  }
  reader.join();
  EXPECT_EQ(snapshot.spared_bytes(), 0);
}

}  // namespace
}  // namespace hetmem
