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
#include "device/thread_pool.h"
#include "tests/gpu.h"

namespace hetmem {
namespace {

constexpr int64_t kFloat = sizeof(float);
constexpr size_t kLists = 3;  // weights and two moments

// Two matrices, a table in several pieces, vectors, one of them frozen; then matrices and a table
// whose weights are split, one of them frozen.
ChunkLayout small_layout() {
  return layout_chunks({{16, 32, false, true},
                        {20, 24, false, true},
                        {50, 32, true, true},
                        {1, 40, false, true},
                        {1, 24, false, false},
                        {24, 20, false, true, true},
                        {50, 32, true, true, true},
                        {16, 24, false, false, true}});
}

// Values that no bf16 holds, and whose low halves have both signs.
float value_of(size_t list, int tensor, int64_t element) {
  return static_cast<float>(list * 100000 + static_cast<size_t>(tensor) * 10000) +
         static_cast<float>(element) + 0.25F;
}

// Chunks over two tiers with just the budgets that are asked for.
struct Machine {
  explicit Machine(int64_t device_bytes = 1 << 20, int64_t host_bytes = 1 << 20,
                   const DeviceId& id = {})
      : where(make_device(id, pool)),
        device("device", device_bytes, where->memory()),
        host("host", host_bytes, where->host_memory()) {}

  int count() const { return static_cast<int>(layout.chunks.size()); }
  bool trained(int tensor) const {
    return layout.chunks[static_cast<size_t>(layout.pieces[static_cast<size_t>(tensor)][0].chunk)]
        .trained;
  }
  // Calls visit(list, tensor) for each part of the state.
  template <typename Visit>
  void visit_state(const Visit& visit) const {
    for (int tensor = 0; tensor < static_cast<int>(layout.pieces.size()); ++tensor) {
      for (size_t list = 0; list < (trained(tensor) ? kLists : 1); ++list) visit(list, tensor);
    }
  }
  void fill() {
    visit_state([&](size_t list, int tensor) {
      chunks.write(static_cast<ChunkList>(list), tensor,
                   [&](float* to, int64_t first, int64_t elements) {
                     for (int64_t i = 0; i < elements; ++i) {
                       to[i] = value_of(list, tensor, first + i);
                     }
                   });
    });
  }
  void expect_whole() {
    visit_state([&](size_t list, int tensor) {
      int64_t next = 0;
      int64_t wrong = 0;
      chunks.read(static_cast<ChunkList>(list), tensor, [&](const float* data, int64_t elements) {
        for (int64_t i = 0; i < elements; ++i) {
          wrong += data[i] == value_of(list, tensor, next++) ? 0 : 1;
        }
      });
      int64_t elements = 0;
      for (const PieceOf& at : layout.pieces[static_cast<size_t>(tensor)]) {
        elements += layout.piece(at).elements;
      }
      EXPECT_EQ(next, elements);
      EXPECT_EQ(wrong, 0) << "list " << list << " of tensor " << tensor;
    });
  }
  // Bytes of chunk `c` at a home: state, and where its gradients wait.
  int64_t bytes(int c, bool on_device) const {
    const ChunkShape& shape = layout.chunks[static_cast<size_t>(c)];
    const int lists = !shape.trained ? 1 : on_device ? 3 : 4;
    return shape.elements * kFloat * lists;
  }
  std::vector<bool> all(bool resident) const {
    return std::vector<bool>(layout.chunks.size(), resident);
  }
  std::vector<bool> only(int c) const {
    std::vector<bool> resident = all(false);
    resident[static_cast<size_t>(c)] = true;
    return resident;
  }

  ThreadPool pool{2};
  std::unique_ptr<Device> where;
  Tier device;
  Tier host;
  TransferEngine transfers{*where};
  const ChunkLayout layout = small_layout();
  ChunkManager chunks{layout, 2, device, host, transfers};
};

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
      const float weight = shape.split
                               ? join_master(weights.as<uint16_t>()[piece.offset],
                                             machine.chunks.low(c).as<int16_t>()[piece.offset])
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
