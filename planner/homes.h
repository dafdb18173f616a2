// Where the parts of each chunk have their home, for one choice of chunks that stay on the device.
// What stays is whole there. The host holds the parts of the others whose place on disk would cost
// the most traffic for their bytes, as far as its budget goes: weights first, then optimizer state
// and gradients. The rest is on disk. Part of make_plan(). Pure.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "core/memory_kind.h"
#include "planner/access_trace.h"

namespace hetmem {

// Parts of a chunk that does not stay on the device and that are on disk instead of on the host.
struct ChunkPlaces {
  bool weights_on_disk = false;
  bool gradient_on_disk = false;  // where it waits for the optimizer
  bool optimizer_on_disk = false;
  bool any_on_disk() const { return weights_on_disk || gradient_on_disk || optimizer_on_disk; }
  bool operator==(const ChunkPlaces&) const = default;
};

// What a chunk that does not stay on the device has below it, part by part.
struct HomePart {
  MemoryKind kind = MemoryKind::kWeights;
  bool on_disk = false;
  int64_t bytes = 0;  // on disk with trailers
};
// Weights, optimizer state, gradient.
std::array<HomePart, 3> parts_of(const TraceChunk& chunk, const ChunkPlaces& places);

struct Homes {
  std::vector<ChunkPlaces> chunks;
  int64_t host_bytes = 0;  // state and gradients; staging is not counted here
  int64_t disk_bytes = 0;  // with trailers
  bool any_on_disk() const { return disk_bytes > 0; }
};

// `host`: bytes that the host has for them. Without `disk` all is on the host, whatever its budget.
Homes choose_homes(const AccessTrace& trace, const std::vector<bool>& resident, int64_t host,
                   bool disk);

// What is where with places that are given (by chunk; empty: all on the host).
Homes homes_at(const AccessTrace& trace, const std::vector<bool>& resident,
               const std::vector<ChunkPlaces>& places);

// What passes between host and disk.
struct DiskUse {
  int64_t read = 0;
  int64_t written = 0;
};
// While weights are brought to the device, or a gradient is; while a gradient leaves it; while the
// host steps a chunk.
DiskUse fetch_use(const TraceChunk& chunk, const ChunkPlaces& places, bool weights);
DiskUse send_use(const TraceChunk& chunk, const ChunkPlaces& places);
DiskUse step_use(const TraceChunk& chunk, const ChunkPlaces& places);

}  // namespace hetmem
