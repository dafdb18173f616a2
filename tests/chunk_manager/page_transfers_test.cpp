// Chunks on disk that pass the device and the optimizer page by page: the same values as in memory.
#include "chunk_manager/page_transfers.h"

#include <gtest/gtest.h>

#include <random>

#include "core/split_master.h"
#include "device/thread_pool.h"
#include "tests/offload/disk_fixture.h"

namespace hetmem {
namespace {

// A matrix of three pages, a split one, vectors.
ChunkLayout paged_layout() {
  return layout_chunks({{1300, 1024, false, true},
                        {700, 1024, false, true, true},
                        {1, 4096, false, true},
                        {64, 512, false, false, true}});
}

DiskOptions options_for(const TemporaryFolder& folder) {
  DiskOptions options;
  options.folders = {folder.path()};
  options.budget = int64_t{1} << 27;
  return options;
}

struct Machine {
  Machine() : disk(options_for(folder), host) {}

  void fill(uint32_t seed) {
    for (int tensor = 0; tensor < tensors(); ++tensor) {
      for (int list = 0; list < (trained(tensor) ? 3 : 1); ++list) {
        std::mt19937 random(seed + static_cast<uint32_t>(tensor * 3 + list));
        chunks.write(static_cast<ChunkList>(list), tensor, [&](float* to, int64_t, int64_t count) {
          for (int64_t i = 0; i < count; ++i) {
            to[i] = static_cast<float>(static_cast<int32_t>(random())) * 0x1p-31F;
          }
        });
      }
    }
  }
  int tensors() const { return static_cast<int>(layout.pieces.size()); }
  bool trained(int tensor) const {
    return layout.chunks[static_cast<size_t>(layout.pieces[static_cast<size_t>(tensor)][0].chunk)]
        .trained;
  }
  std::vector<float> state() {
    std::vector<float> all;
    for (int tensor = 0; tensor < tensors(); ++tensor) {
      for (int list = 0; list < (trained(tensor) ? 3 : 1); ++list) {
        chunks.read(static_cast<ChunkList>(list), tensor,
                    [&](const float* data, int64_t n) { all.insert(all.end(), data, data + n); });
      }
    }
    return all;
  }

  TemporaryFolder folder;
  ThreadPool pool{2};
  std::unique_ptr<Device> where = make_device({}, pool);
  Tier device{"device", int64_t{1} << 27, where->memory()};
  Tier host{"host", int64_t{1} << 28, where->host_memory()};
  DiskTier disk;
  TransferEngine transfers{*where};
  CpuStream work{"host", pool, MemorySpace::kHost};
  const ChunkLayout layout = paged_layout();
  ChunkManager chunks{layout, {2}, device, host, transfers, &disk};
};

// One step of a stand-in for an optimizer in which every list counts, element by element.
void enqueue_step(CpuStream& stream, const PageOfChunk& page) {
  stream.enqueue([page](ThreadPool&) {
    for (int64_t i = 0; i < page.count; ++i) {
      float& m = page.first_moment.as<float>()[i];
      float& v = page.second_moment.as<float>()[i];
      const float g = page.gradient.as<float>()[i];
      m = 0.9F * m + g;
      v = v + g * g;
      if (!page.low) {
        page.weight.as<float>()[i] -= 0.125F * m + v;
        continue;
      }
      uint16_t& hi = page.weight.as<uint16_t>()[i];
      int16_t& lo = page.low.as<int16_t>()[i];
      const SplitMaster halves = split_master(join_master(hi, lo) - (0.125F * m + v));
      hi = halves.hi;
      lo = halves.lo;
    }
  });
}

// Steps as an executor does: weights to the device, a gradient made of them there, back, stepped.
std::vector<float> run_steps(const std::vector<ChunkPlaces>& places, int steps) {
  Machine machine;
  const auto count = static_cast<int>(machine.layout.chunks.size());
  machine.chunks.place(std::vector<bool>(static_cast<size_t>(count), false), places);
  machine.fill(11);
  PageTransfers pages(machine.chunks, machine.host);
  const int64_t read_before = machine.disk.read_bytes();
  const int64_t written_before = machine.disk.written_bytes();
  std::vector<Buffer> slots;
  for (const ChunkShape& shape : machine.layout.chunks) {
    slots.emplace_back(machine.device, shape.list_bytes(), MemoryKind::kWeights,
                       MemorySpace::kDevice);
  }
  Stream& to_device = machine.transfers.to_device();
  Stream& to_host = machine.transfers.to_host();
  for (int step = 0; step < steps; ++step) {
    for (int c = 0; c < count; ++c) {
      const ChunkShape& shape = machine.layout.chunks[static_cast<size_t>(c)];
      void* slot = slots[static_cast<size_t>(c)].data();
      if (machine.chunks.on_disk(ChunkList::kWeights, c)) {
        pages.fetch(ChunkList::kWeights, c, slot, to_device);
      } else {
        to_device.wait(machine.work.record());
        const TensorView weights = machine.chunks.whole(ChunkList::kWeights, c);
        to_device.copy(slot, weights.data, weights.bytes(), CopyDirection::kToDevice);
      }
      if (!shape.trained) continue;
      // Whatever bits weights have, as a small gradient of the same bytes and more.
      to_host.wait(to_device.record());
      auto gradient = std::make_shared<std::vector<float>>(static_cast<size_t>(shape.elements));
      to_host.synchronize();
      to_device.synchronize();
      std::vector<char> brought(static_cast<size_t>(shape.weight_bytes()));
      machine.transfers.copy_to_host(brought.data(), slot, shape.weight_bytes());
      for (size_t i = 0; i < gradient->size(); ++i) {
        (*gradient)[i] = static_cast<float>(brought[i % brought.size()]) * 0x1p-12F;
      }
      machine.transfers.copy_to_device(slot, gradient->data(), shape.list_bytes());
      if (machine.chunks.on_disk(ChunkList::kGradient, c)) {
        pages.send(c, slot, to_host);
      } else {
        const TensorView waiting = machine.chunks.whole(ChunkList::kGradient, c);
        to_host.copy(waiting.data, slot, shape.list_bytes(), CopyDirection::kToHost);
      }
      machine.work.wait(to_host.record());
      const ChunkPlaces& at = places.empty() ? ChunkPlaces{} : places[static_cast<size_t>(c)];
      if (at.any_on_disk()) {
        pages.step(c, machine.work,
                   [&](const PageOfChunk& page) { enqueue_step(machine.work, page); });
        continue;
      }
      PageOfChunk whole;
      whole.count = shape.elements;
      whole.weight = machine.chunks.whole(ChunkList::kWeights, c);
      if (shape.split) whole.low = machine.chunks.whole(ChunkList::kLow, c);
      whole.gradient = machine.chunks.whole(ChunkList::kGradient, c);
      whole.first_moment = machine.chunks.whole(ChunkList::kFirstMoment, c);
      whole.second_moment = machine.chunks.whole(ChunkList::kSecondMoment, c);
      enqueue_step(machine.work, whole);
    }
    to_host.synchronize();  // the slots are free again
  }
  machine.work.synchronize();
  machine.transfers.synchronize();
  pages.synchronize();
  EXPECT_EQ(machine.disk.read_bytes(), pages.read_bytes() + read_before);
  EXPECT_EQ(machine.disk.written_bytes(), pages.written_bytes() + written_before);
  return machine.state();
}

TEST(PageTransfers, GiveTheBitsOfMemoryWhereverTheListsAre) {
  const std::vector<float> expected = run_steps({}, 3);
  const size_t count = paged_layout().chunks.size();
  for (int places = 1; places < 8; ++places) {
    const ChunkPlaces all{(places & 1) != 0, (places & 2) != 0, (places & 4) != 0};
    EXPECT_TRUE(run_steps(std::vector<ChunkPlaces>(count, all), 3) == expected) << places;
  }
}

TEST(PageTransfers, TheirRingIsReserved) {
  Machine machine;
  const int64_t before = machine.host.used();
  const PageTransfers pages(machine.chunks, machine.host);
  EXPECT_EQ(machine.host.used() - before, PageTransfers::staging_bytes());
  EXPECT_LE(machine.host.used(), int64_t{64} << 20);  // with the staging of the disk itself
}

}  // namespace
}  // namespace hetmem
