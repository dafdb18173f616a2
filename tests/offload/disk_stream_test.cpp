#include "offload/disk_stream.h"

#include <future>

#include "device/cpu/memory_guard.h"
#include "device/thread_pool.h"
#include "tests/offload/disk_fixture.h"

namespace hetmem {
namespace {

constexpr int64_t kBytes = 50000;
constexpr auto kOptimizer = MemoryKind::kOptimizer;

struct Machine {
  explicit Machine(int folders = 1) {
    DiskOptions options;
    for (int i = 0; i < folders; ++i) options.folders.push_back(folder.path());
    options.budget = 1 << 21;
    options.piece_bytes = 2 * kBlockBytes;
    options.depth = 2;
    disk = std::make_unique<DiskTier>(options, host);
    reads = std::make_unique<DiskStream>("disk read", *disk);
    writes = std::make_unique<DiskStream>("disk write", *disk);
  }

  TemporaryFolder folder;
  Tier host{"host", 1 << 22};
  ThreadPool pool{2};
  std::unique_ptr<DiskTier> disk;
  std::unique_ptr<DiskStream> reads;
  std::unique_ptr<DiskStream> writes;
};

// A step in miniature: the host changes a chunk, one lane takes it to the disk, another brings it
// back to a second place. Events order them, and nothing else does.
TEST(DiskStream, EventsOrderLanes) {
  const MemoryGuard::Session guard;
  Machine machine(2);
  CpuStream compute("host", machine.pool, MemorySpace::kHost);
  constexpr int kChunks = 6;
  std::vector<DiskSlot> slots;
  std::vector<Buffer> data;
  std::vector<Buffer> back;
  for (int i = 0; i < kChunks; ++i) {
    slots.push_back(machine.disk->allocate("c", kBytes, kOptimizer));
    data.emplace_back(machine.host, kBytes, kOptimizer, MemorySpace::kHost);
    back.emplace_back(machine.host, kBytes, kOptimizer, MemorySpace::kHost);
  }
  std::vector<Event> written(kChunks);
  std::vector<Event> used(kChunks);
  int wrong = 0;
  for (int step = 0; step < 5; ++step) {
    for (size_t i = 0; i < kChunks; ++i) {
      const int value = step * kChunks + static_cast<int>(i);
      compute.wait(written[i]);
      auto* memory = static_cast<unsigned char*>(data[i].data());
      compute.enqueue([=](ThreadPool&) { std::fill_n(memory, kBytes, value); });
      machine.writes->wait(compute.record());
      machine.writes->write(slots[i], memory, step);
      written[i] = machine.writes->record();
      machine.reads->wait(written[i]);
      machine.reads->wait(used[i]);
      auto* copy = static_cast<unsigned char*>(back[i].data());
      machine.reads->read(slots[i], copy, step);
      compute.wait(machine.reads->record());
      compute.enqueue([=, &wrong](ThreadPool&) {
        wrong += static_cast<int>(kBytes - std::count(copy, copy + kBytes, value));
      });
      used[i] = compute.record();
    }
  }
  compute.synchronize();
  machine.reads->synchronize();
  machine.writes->synchronize();
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(machine.disk->read_bytes(), 5 * kChunks * DiskTier::stored_bytes(kBytes));
}

// An event that says when it is waited for, and is complete when the test says so.
struct GatedEvent final : Event::State {
  bool complete() const override { return false; }
  void synchronize() const override {
    reached.set_value();
    gate.get_future().wait();
  }
  mutable std::promise<void> reached;
  mutable std::promise<void> gate;
};

TEST(DiskStream, WaitsWithoutTheCaller) {
  Machine machine;
  auto event = std::make_shared<GatedEvent>();
  std::vector<char> data(kBytes, 1);
  const DiskSlot slot = machine.disk->allocate("c", kBytes, kOptimizer);
  machine.writes->wait(Event(event));
  machine.writes->write(slot, data.data(), 0);
  const Event done = machine.writes->record();
  event->reached.get_future().wait();
  EXPECT_FALSE(done.complete());
  EXPECT_EQ(machine.disk->written_bytes(), 0);
  data.assign(kBytes, 2);  // not written yet: this is what must be
  event->gate.set_value();
  done.synchronize();
  EXPECT_EQ(machine.disk->written_bytes(), DiskTier::stored_bytes(kBytes));
  EXPECT_GT(machine.writes->waited_seconds(), 0.0);
  std::vector<char> back(kBytes);
  double seconds = -1;
  machine.reads->start_timer();
  machine.reads->read(slot, back.data(), 0);
  machine.reads->stop_timer(seconds);
  machine.reads->synchronize();
  EXPECT_EQ(back, data);
  EXPECT_GT(seconds, 0.0);
}

TEST(DiskStream, AnErrorStopsItAndIsRethrown) {
  Machine machine;
  std::vector<char> data(kBytes, 1);
  std::vector<char> back(kBytes, 9);
  const DiskSlot good = machine.disk->allocate("good", kBytes, kOptimizer);
  const DiskSlot never_written = machine.disk->allocate("bad", kBytes, kOptimizer);
  machine.writes->write(good, data.data(), 0);
  machine.writes->synchronize();
  machine.reads->read(never_written, back.data(), 0);
  machine.reads->record().synchronize();  // what was started before that would not be stopped
  back.assign(kBytes, 9);
  machine.reads->read(good, back.data(), 0);
  const Event after = machine.reads->record();
  after.synchronize();  // events complete all the same
  EXPECT_EQ(back, std::vector<char>(kBytes, 9));
  const std::string message = error_of(ErrorKind::kCorrupt, [&] { machine.reads->synchronize(); });
  EXPECT_TRUE(contains(message, "chunk bad")) << message;
  machine.reads->synchronize();  // once
  machine.reads->read(good, back.data(), 0);
  machine.reads->synchronize();
  EXPECT_EQ(back, data);
  // A mistake is found when the work starts.
  machine.writes->write(good, data.data(), 0);
  error_of(ErrorKind::kInternal, [&] { machine.writes->synchronize(); });
}

TEST(DiskStream, CopiesAreInOrderWithTransfers) {
  Machine machine;
  std::vector<char> data(kBytes, 1);
  std::vector<char> back(kBytes, 9);
  std::vector<char> copy(kBytes, 9);
  const DiskSlot slot = machine.disk->allocate("c", kBytes, kOptimizer);
  DiskStream& stream = *machine.writes;
  for (int64_t round = 0; round < 20; ++round) {
    std::vector<char> source(kBytes, static_cast<char>(round));
    stream.copy(data.data(), source.data(), kBytes, CopyDirection::kWithin);
    stream.write(slot, data.data(), round);
    stream.wait(stream.record());
    stream.read(slot, back.data(), round);
    stream.copy(copy.data(), back.data(), kBytes, CopyDirection::kWithin);
    stream.synchronize();
    ASSERT_EQ(copy, source);
  }
  EXPECT_EQ(stream.copied_bytes(CopyDirection::kWithin), 40 * kBytes);
  EXPECT_EQ(stream.copied_bytes(CopyDirection::kToHost), 0);
}

TEST(DiskStream, ItsDestructorFinishesTheWork) {
  Machine machine;
  std::vector<char> data(kBytes, 3);
  std::vector<char> back(kBytes);
  const DiskSlot slot = machine.disk->allocate("c", kBytes, kOptimizer);
  {
    DiskStream stream("disk", *machine.disk);
    stream.write(slot, data.data(), 0);
  }
  machine.disk->read(slot, back.data(), 0).wait();
  EXPECT_EQ(back, data);
}

}  // namespace
}  // namespace hetmem
