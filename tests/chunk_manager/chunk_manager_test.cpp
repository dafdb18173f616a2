#include "chunk_manager/chunk_manager.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "core/dtype.h"
#include "core/error.h"
#include "core/fault_plan.h"
#include "core/split_master.h"
#include "device/cpu/memory_guard.h"
#include "tests/chunk_manager/chunk_machine.h"
#include "tests/gpu.h"

namespace hetmem {
namespace {

TEST(ChunkManager, TheLayoutHasWhatTheTestsAreAbout) {
  const ChunkLayout layout = small_layout();
  EXPECT_GE(layout.chunks.size(), 5U);
  EXPECT_GT(layout.pieces[2].size(), 1U);  // the table
  EXPECT_FALSE(layout.chunks[static_cast<size_t>(layout.pieces[4][0].chunk)].trained);
}

// The high halves are what products read: the nearest bf16.
TEST(ChunkManager, SplitWeightsAreNearestInTheirHighHalves) {
  Machine machine;
  machine.chunks.place(machine.all(false));
  machine.fill();
  int seen = 0;
  for (int c = 0; c < machine.count(); ++c) {
    const ChunkShape& shape = machine.layout.chunks[static_cast<size_t>(c)];
    const TensorView weights = machine.chunks.whole(ChunkList::kWeights, c);
    EXPECT_EQ(weights.dtype, shape.split ? DType::kBFloat16 : DType::kFloat32);
    if (!shape.split) continue;
    for (const ChunkPiece& piece : shape.pieces) {
      const auto& row_pieces = machine.layout.pieces[static_cast<size_t>(piece.tensor)];
      int64_t before = 0;
      for (const PieceOf& at : row_pieces) {
        if (machine.layout.piece(at).first_row < piece.first_row) {
          before += machine.layout.piece(at).elements;
        }
      }
      for (int64_t i = 0; i < piece.elements; ++i, ++seen) {
        const float value = value_of(0, piece.tensor, before + i);
        const float high = float_from_bf16(weights.as<uint16_t>()[piece.offset + i]);
        const float next = float_from_bf16(weights.as<uint16_t>()[piece.offset + i] + 1U);
        EXPECT_LE(std::abs(high - value), (next - high) / 2) << value;
      }
    }
  }
  EXPECT_EQ(seen, 24 * 20 + 50 * 32 + 16 * 24);
}

TEST(ChunkManager, EveryByteIsReservedWhereTheChunkIs) {
  Machine machine;
  machine.chunks.place(machine.only(1));
  int64_t host_bytes = 0;
  for (int c = 0; c < machine.count(); ++c) {
    EXPECT_EQ(machine.chunks.resident(c), c == 1);
    if (c != 1) host_bytes += machine.bytes(c, false);
    EXPECT_EQ(machine.chunks.whole(ChunkList::kWeights, c).space,
              c == 1 ? MemorySpace::kDevice : MemorySpace::kHost);
  }
  EXPECT_EQ(machine.device.used(), machine.bytes(1, true));
  EXPECT_EQ(machine.host.used(), host_bytes);
}

TEST(ChunkManager, ListsHaveTheSameTensorsAtTheSamePlace) {
  Machine machine;
  machine.chunks.place(machine.all(false));
  machine.fill();
  for (int c = 0; c < machine.count(); ++c) {
    const ChunkShape& shape = machine.layout.chunks[static_cast<size_t>(c)];
    if (!shape.trained) continue;
    const TensorView weights = machine.chunks.whole(ChunkList::kWeights, c);
    const TensorView second = machine.chunks.whole(ChunkList::kSecondMoment, c);
    for (const ChunkPiece& piece : shape.pieces) {
      const float weight =
          shape.split
              ? join_master(weights.as<uint16_t>()[piece.offset],
                            machine.chunks.whole(ChunkList::kLow, c).as<int16_t>()[piece.offset])
              : weights.as<float>()[piece.offset];
      EXPECT_EQ(second.as<float>()[piece.offset] - weight, 200000.0F);
    }
  }
}

// Through time: every chunk to the device and back, one at a time, all and none, read in between.
TEST(ChunkManager, NothingIsLostOnTheWay) {
  for (const bool guarded : {false, true}) {
    std::unique_ptr<MemoryGuard::Session> guard;
    if (guarded) guard = std::make_unique<MemoryGuard::Session>();
    Machine machine;
    machine.chunks.place(machine.all(false));
    machine.fill();
    machine.expect_whole();
    std::vector<std::vector<bool>> placements{machine.all(true), machine.all(false)};
    for (int c = 0; c < machine.count(); ++c) placements.push_back(machine.only(c));
    placements.push_back(machine.all(true));
    for (const std::vector<bool>& placement : placements) {
      machine.chunks.place(placement);
      EXPECT_EQ(machine.chunks.residents(), placement);
      machine.expect_whole();
      machine.fill();  // in place, on either tier
    }
    machine.expect_whole();
  }
}

TEST(ChunkManager, APlacementThatIsThereMovesNothing) {
  Machine machine;
  machine.chunks.place(machine.only(2));
  const void* before = machine.chunks.whole(ChunkList::kWeights, 2).data;
  machine.chunks.place(machine.only(2));
  EXPECT_EQ(machine.chunks.whole(ChunkList::kWeights, 2).data, before);
  EXPECT_EQ(machine.transfers.bytes_to_device(), 0);
  EXPECT_EQ(machine.transfers.bytes_to_host(), 0);
}

TEST(ChunkManager, MovesCarryTheStateAndNoGradients) {
  Machine machine;
  machine.chunks.place(machine.all(false));
  machine.chunks.place(machine.only(0));
  EXPECT_EQ(machine.transfers.bytes_to_device(), machine.bytes(0, true));
  machine.chunks.place(machine.all(false));
  EXPECT_EQ(machine.transfers.bytes_to_host(), machine.bytes(0, true));
}

TEST(ChunkManager, APinnedChunkDoesNotMove) {
  Machine machine;
  machine.chunks.place(machine.all(false));
  machine.fill();
  ChunkPin first = machine.chunks.pin(1);
  ChunkPin second = machine.chunks.pin(1);
  EXPECT_EQ(machine.chunks.pins(1), 2);
  EXPECT_EQ(first.chunk(), 1);
  const auto refused = [&] {
    try {
      machine.chunks.place(machine.only(1));
      ADD_FAILURE() << "a pinned chunk moved";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInternal);
      EXPECT_NE(std::string(error.what()).find("pinned"), std::string::npos);
    }
    EXPECT_FALSE(machine.chunks.resident(1));
  };
  refused();
  ChunkPin moved = std::move(first);
  EXPECT_EQ(machine.chunks.pins(1), 2);
  second = ChunkPin();
  EXPECT_EQ(machine.chunks.pins(1), 1);
  refused();
  machine.chunks.place(machine.only(0));  // others do move
  moved.release();
  moved.release();
  EXPECT_EQ(machine.chunks.pins(1), 0);
  machine.chunks.place(machine.only(1));
  EXPECT_TRUE(machine.chunks.resident(1));
  machine.expect_whole();
}

TEST(ChunkManager, ReadersPinAndLetGo) {
  Machine machine;
  machine.chunks.place(machine.all(true));
  machine.fill();
  const int chunk = machine.layout.pieces[0][0].chunk;
  machine.chunks.read(ChunkList::kWeights, 0, [&](const float*, int64_t) {
    EXPECT_EQ(machine.chunks.pins(chunk), 1);
    EXPECT_THROW(machine.chunks.place(machine.all(false)), Error);
  });
  EXPECT_THROW(machine.chunks.read(ChunkList::kWeights, 0,
                                   [](const float*, int64_t) { throw std::bad_alloc(); }),
               std::bad_alloc);
  EXPECT_EQ(machine.chunks.pins(chunk), 0);
  machine.expect_whole();
}

// One chunk moves at a time: the new home beside the old one is all that is needed more.
TEST(ChunkManager, MovesOneChunkAtATime) {
  Machine machine;
  machine.chunks.place(machine.all(true));
  machine.fill();
  int64_t all_on_host = 0;
  for (int c = 0; c < machine.count(); ++c) all_on_host += machine.bytes(c, false);
  machine.host.set_budget(all_on_host);
  machine.device.reset_peak();
  machine.chunks.place(machine.all(false));
  EXPECT_EQ(machine.device.used(), 0);
  EXPECT_EQ(machine.host.peak(), all_on_host);
  // Back into a device with no byte more than they take.
  int64_t all_on_device = 0;
  for (int c = 0; c < machine.count(); ++c) all_on_device += machine.bytes(c, true);
  machine.device.set_budget(all_on_device);
  machine.chunks.place(machine.all(true));
  EXPECT_EQ(machine.device.peak(), all_on_device);
  machine.expect_whole();
}

// Two chunks change places where neither tier has room for both: those that can move go first.
TEST(ChunkManager, ChunksChangePlacesInTightBudgets) {
  for (const bool tight_host : {false, true}) {
    Machine machine;
    machine.chunks.place(machine.only(0));
    machine.fill();
    const int64_t more_host = machine.bytes(0, false) - machine.bytes(1, false);
    const int64_t more_device = machine.bytes(1, true) - machine.bytes(0, true);
    Tier& tight = tight_host ? machine.host : machine.device;
    tight.set_budget(tight.used() + std::max<int64_t>(0, tight_host ? more_host : more_device));
    machine.chunks.place(machine.only(1));
    EXPECT_EQ(machine.chunks.residents(), machine.only(1));
    machine.expect_whole();
  }
}

TEST(ChunkManager, AFailureOnTheWayLeavesEveryChunkWhole) {
  // Each home is one reservation for each kind: a frozen chunk has one, others two or three.
  for (int64_t n = 1;; ++n) {
    Machine machine;
    machine.chunks.place(machine.only(0));
    machine.fill();
    std::vector<bool> wanted = machine.all(true);
    wanted[0] = false;
    bool failed = false;
    try {
      const FaultPlan::Session faults("tier.reserve@device:" + std::to_string(n) + "=fail");
      machine.chunks.place(wanted);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kDoesNotFit);
      failed = true;
    }
    machine.expect_whole();
    int64_t device_bytes = 0;
    int64_t host_bytes = 0;
    for (int c = 0; c < machine.count(); ++c) {
      const bool resident = machine.chunks.resident(c);
      (resident ? device_bytes : host_bytes) += machine.bytes(c, resident);
      EXPECT_EQ(machine.chunks.pins(c), 0);
    }
    EXPECT_EQ(machine.device.used(), device_bytes);
    EXPECT_EQ(machine.host.used(), host_bytes);
    if (!failed) {
      EXPECT_GT(n, 2 * (machine.count() - 2));
      break;
    }
    machine.chunks.place(wanted);
    EXPECT_EQ(machine.chunks.residents(), wanted);
    machine.expect_whole();
  }
}

TEST(ChunkManager, AFailureOfTheFirstPlacementCanBeTriedAgain) {
  for (int64_t n = 1; n <= 6; ++n) {
    Machine machine;
    {
      const FaultPlan::Session faults("tier.reserve@host:" + std::to_string(n) + "=fail");
      EXPECT_THROW(machine.chunks.place(machine.all(false)), Error);
    }
    machine.chunks.place(machine.only(1));
    EXPECT_EQ(machine.chunks.residents(), machine.only(1));
    machine.fill();
    machine.expect_whole();
  }
}

TEST(ChunkManager, ATierThatIsTooSmallIsNeverPassed) {
  Machine machine(1 << 20, 1000);
  EXPECT_THROW(machine.chunks.place(machine.all(false)), Error);
  EXPECT_LE(machine.host.peak(), 1000);
}

// A matrix of a million elements on the device, whose tier has `room` beside it, and nothing else.
struct OneMatrix : Machine {
  explicit OneMatrix(bool split, int64_t room_of_host, int64_t room_of_device)
      : Machine(int64_t{1} << 30, 0, {}, nullptr,
                layout_chunks({{1024, 1024, false, true, split}})) {
    chunks.place(all(true));
    before = device.used();
    device.set_budget(before + room_of_device);
    host.set_budget(room_of_host);
  }
  int64_t taken() const { return host.used() + device.used() - before; }
  int64_t before = 0;
};

// Blocks that elements pass, and the halves of them, are reserved while they are there: the largest
// for which there is room, on the host or, where that is one memory, on the device.
TEST(ChunkManager, ReservesWhatItReadsAndWritesInto) {
  for (const bool split : {false, true}) {
    const int64_t element = split ? 2 * kFloat : kFloat;
    const int64_t most = ChunkManager::kBlock * element;
    for (const int64_t room : {4 * most, most, most - 1, most / 4, most / 8 - 1, int64_t{0}}) {
      for (const bool of_host : {true, false}) {
        OneMatrix machine(split, of_host ? room : 0, of_host ? 0 : room);
        int64_t block = 0;
        int64_t least_taken = most;
        const auto look = [&](int64_t count) {
          block = std::max(block, count * element);
          least_taken = std::min(least_taken, machine.taken());
        };
        machine.chunks.write(ChunkList::kWeights, 0, [&](float* to, int64_t first, int64_t count) {
          for (int64_t i = 0; i < count; ++i) to[i] = value_of(0, 0, first + i);
          look(count);
        });
        EXPECT_EQ(machine.taken(), 0);
        int64_t next = 0;
        int64_t wrong = 0;
        machine.chunks.read(ChunkList::kWeights, 0, [&](const float* data, int64_t count) {
          for (int64_t i = 0; i < count; ++i) wrong += data[i] == value_of(0, 0, next++) ? 0 : 1;
          look(count);
        });
        EXPECT_EQ(wrong, 0);
        EXPECT_EQ(next, 1024 * 1024);
        EXPECT_EQ(machine.taken(), 0);
        if (room == 0) {  // there is no reading without
          EXPECT_EQ(block, 4096 * element);
          EXPECT_EQ(least_taken, 0);
        } else {
          EXPECT_EQ(block, least_taken);
          EXPECT_LE(block, std::min(room, most));
          EXPECT_GT(2 * block, std::min(room, most));
        }
      }
    }
  }
}

// On a GPU what is on the device can be reached by copies alone: chunks are whole at every home.
TEST(CudaChunks, AreWholeWhereverTheyMove) {
  HETMEM_REQUIRE_GPU();
  Machine machine(1 << 20, 1 << 20, parse_device("cuda"));
  machine.chunks.place(machine.all(false));
  machine.fill();
  machine.expect_whole();
  std::vector<std::vector<bool>> places{machine.all(true), machine.all(false)};
  for (int c = 0; c < machine.count(); ++c) places.push_back(machine.only(c));
  places.push_back(machine.all(true));
  for (const std::vector<bool>& resident : places) {
    machine.chunks.place(resident);
    EXPECT_EQ(machine.chunks.residents(), resident);
    machine.expect_whole();
    int64_t on_device = 0;
    for (int c = 0; c < machine.count(); ++c) {
      if (resident[static_cast<size_t>(c)]) on_device += machine.bytes(c, true);
    }
    EXPECT_EQ(machine.device.used(), on_device);
    EXPECT_EQ(machine.device.touched_bytes(), on_device);
  }
  machine.fill();  // on the device
  machine.expect_whole();
}

TEST(CudaChunks, ATierWithoutRoomLeavesChunksWhole) {
  HETMEM_REQUIRE_GPU();
  Machine machine(1 << 20, 1 << 20, parse_device("cuda"));
  machine.chunks.place(machine.all(false));
  machine.fill();
  machine.device.set_budget(machine.bytes(0, true));
  EXPECT_THROW(machine.chunks.place(machine.all(true)), Error);
  machine.expect_whole();
  {
    const ChunkPin pin = machine.chunks.pin(1);
    machine.device.set_budget(1 << 20);
    EXPECT_THROW(machine.chunks.place(machine.all(true)), Error);
  }
  machine.expect_whole();
  machine.chunks.place(machine.all(true));
  machine.expect_whole();
}

}  // namespace
}  // namespace hetmem
