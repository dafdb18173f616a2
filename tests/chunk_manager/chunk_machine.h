// A small layout with every class of chunks, over tiers with just the budgets that are asked for,
// filled with values that tell list, tensor and element.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <utility>
#include <vector>

#include "chunk_manager/chunk_manager.h"
#include "device/thread_pool.h"

namespace hetmem {

constexpr int64_t kFloat = sizeof(float);
constexpr size_t kLists = 3;  // weights and two moments

// Two matrices, a table in several pieces, vectors, one of them frozen; then matrices and a table
// whose weights are split, one of them frozen.
inline ChunkLayout small_layout() {
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
inline float value_of(size_t list, int tensor, int64_t element) {
  return static_cast<float>(list * 100000 + static_cast<size_t>(tensor) * 10000) +
         static_cast<float>(element) + 0.25F;
}

// Chunks over two tiers with just the budgets that are asked for.
struct Machine {
  explicit Machine(int64_t device_bytes = 1 << 20, int64_t host_bytes = 1 << 20,
                   const DeviceId& id = {}, DiskTier* disk = nullptr,
                   ChunkLayout given = small_layout())
      : where(make_device(id, pool)),
        device("device", device_bytes, where->memory()),
        host("host", host_bytes, where->host_memory()),
        layout(std::move(given)),
        chunks(layout, {2}, device, host, transfers, disk) {}

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
  const ChunkLayout layout;
  ChunkManager chunks;
};

}  // namespace hetmem
