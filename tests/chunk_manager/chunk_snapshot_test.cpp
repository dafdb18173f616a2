#include "chunk_manager/chunk_snapshot.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <thread>
#include <utility>

#include "device/stream.h"
#include "tests/chunk_manager/chunk_machine.h"

namespace hetmem {
namespace {

constexpr int64_t kReaderBlockBytes = ChunkManager::kBlock * kFloat;

// A matrix and a table of more than a block each, with or without split weights.
ChunkLayout layout_of_large_pieces(bool split) {
  return layout_chunks({{1300, 1024, false, true, split}, {1300, 1024, true, true, split}});
}

// A machine whose host has its chunks and so many bytes more, and a snapshot of it.
struct SnapshotMachine {
  SnapshotMachine(ChunkLayout layout, int64_t spare)
      : machine(0, 1 << 28, {}, nullptr, std::move(layout)) {
    machine.chunks.place(machine.all(false));
    machine.fill();
    before = machine.host.used();
    machine.host.set_budget(before + spare);
    machine.host.reset_peak();
    snapshot.emplace(machine.chunks, machine.transfers);
  }
  int64_t taken() const { return machine.host.used() - before; }
  // The state as it was; the most that the reader was shown at once.
  int64_t read_all() {
    int64_t most = 0;
    int64_t wrong = 0;
    machine.visit_state([&](size_t list, int tensor) {
      int64_t next = 0;
      snapshot->read(static_cast<ChunkList>(list), tensor, [&](const float* data, int64_t n) {
        most = std::max(most, n);
        least_taken = std::min(least_taken, taken());
        for (int64_t i = 0; i < n; ++i) {
          wrong += data[i] == value_of(list, tensor, next++) ? 0 : 1;
        }
      });
    });
    EXPECT_EQ(wrong, 0);
    return most;
  }
  // As an optimizer does, chunk by chunk.
  void change(int c) {
    machine.chunks.before_change(c, stream);
    stream.synchronize();
    const TensorView weights = machine.chunks.whole(ChunkList::kWeights, c);
    std::fill_n(static_cast<char*>(weights.data), weights.bytes(), 'x');
  }

  Machine machine;
  CpuStream stream{"host", machine.pool, MemorySpace::kHost};
  int64_t before = 0;
  int64_t least_taken = int64_t{1} << 40;  // while the reader has a block
  std::optional<ChunkSnapshot> snapshot;
};

// What the reader is shown at once, and the halves of it, it has reserved; and gives it back when
// it has read all.
TEST(ChunkSnapshot, ReservesWhatItReadsInto) {
  for (const bool split : {false, true}) {
    const int64_t whole = split ? 2 * kReaderBlockBytes : kReaderBlockBytes;
    for (const int64_t spare : {whole, whole - 1, whole / 4, whole / 8 - 1}) {
      SnapshotMachine at(layout_of_large_pieces(split), spare);
      EXPECT_EQ(at.taken(), 0);
      const int64_t shown = at.read_all() * kFloat * (split ? 2 : 1);
      EXPECT_EQ(at.least_taken, shown);
      EXPECT_LE(shown, spare);
      EXPECT_GT(shown * 2, spare);
      EXPECT_EQ(at.machine.host.peak(), at.before + shown);
      EXPECT_EQ(at.taken(), 0);
    }
  }
}

TEST(ChunkSnapshot, ReservesSpareCopiesBesideThat) {
  SnapshotMachine at(small_layout(), 1 << 20);
  const int chunk = 0;
  int64_t block = 0;
  at.snapshot->read(ChunkList::kWeights, 1, [&](const float*, int64_t) { block = at.taken(); });
  EXPECT_GT(block, 0);
  at.change(chunk);
  EXPECT_EQ(at.snapshot->spared_bytes(), at.machine.chunks.state_bytes(chunk));
  EXPECT_EQ(at.taken(), block + at.snapshot->spared_bytes());
  at.snapshot->stop();
  EXPECT_EQ(at.taken(), 0);
}

// On the processor a host that is full is helped by the device.
TEST(ChunkSnapshot, TakesRoomOfTheDeviceWhereBothAreOneMemory) {
  SnapshotMachine at(small_layout(), 0);
  at.machine.device.set_budget(1 << 20);
  for (int c = 0; c < at.machine.count(); ++c) at.change(c);
  EXPECT_EQ(at.snapshot->chunks_without_room(), 0);
  EXPECT_EQ(at.machine.device.used(), at.snapshot->spared_bytes());
  EXPECT_EQ(at.taken(), 0);
  EXPECT_GT(at.read_all(), 0);
  EXPECT_EQ(at.machine.device.used(), 0);
  EXPECT_EQ(at.machine.host.peak(), at.before);
}

// Without any room it reads all the same, a little at a time.
TEST(ChunkSnapshot, ReadsWithoutRoom) {
  SnapshotMachine at(layout_of_large_pieces(true), 0);
  std::thread reader([&] {
    while (at.snapshot->chunks_without_room() == 0) std::this_thread::yield();
    EXPECT_EQ(at.read_all(), 4096);
  });
  for (int c = 0; c < at.machine.count(); ++c) at.change(c);
  reader.join();
  EXPECT_EQ(at.snapshot->spared_bytes(), 0);
  EXPECT_EQ(at.machine.host.peak(), at.before);
}

// What waits for the reader finds its memory free.
TEST(ChunkSnapshot, GivesItsMemoryBackBeforeChunksMove) {
  const ChunkLayout layout = layout_of_large_pieces(false);
  SnapshotMachine at(layout, kReaderBlockBytes);
  std::thread reader([&] { at.read_all(); });
  at.snapshot->wait();
  EXPECT_EQ(at.taken(), 0);
  reader.join();
}

}  // namespace
}  // namespace hetmem
