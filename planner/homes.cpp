#include "planner/homes.h"

#include <algorithm>

#include "core/error.h"

namespace hetmem {
namespace {

enum class Part : uint8_t { kWeights, kGradient, kOptimizer };

struct Item {
  size_t chunk = 0;
  Part part = Part::kWeights;
  int64_t bytes = 0;
  double passes = 0;  // how often a step would move it between disk and memory
};

bool& on_disk(ChunkPlaces& home, Part part) {
  switch (part) {
    case Part::kWeights:
      return home.weights_on_disk;
    case Part::kGradient:
      return home.gradient_on_disk;
    case Part::kOptimizer:
      break;
  }
  return home.optimizer_on_disk;
}

// Weights are brought for each use that is not held from the one before (two passes, forward and
// backward, are the rule) and rewritten by the optimizer; a gradient leaves after each run and
// comes back once more; optimizer state is read and written once.
std::vector<Item> items_of(const AccessTrace& trace, const std::vector<bool>& resident) {
  std::vector<Item> items;
  for (size_t c = 0; c < trace.chunks.size(); ++c) {
    const TraceChunk& chunk = trace.chunks[c];
    if (resident[c]) continue;
    const double written = chunk.trained() ? 2 : 0;
    const auto reads = static_cast<double>(std::min<size_t>(2, chunk.reads.size()));
    items.push_back({c, Part::kWeights, chunk.weight_bytes, reads + written});
    if (chunk.optimizer_bytes > 0) {
      items.push_back({c, Part::kOptimizer, chunk.optimizer_bytes, written});
    }
    if (chunk.trained()) {
      const auto runs = static_cast<double>(std::max<size_t>(1, chunk.writes.size()));
      items.push_back({c, Part::kGradient, chunk.gradient_bytes, 2 * runs});
    }
  }
  return items;
}

}  // namespace

Homes choose_homes(const AccessTrace& trace, const std::vector<bool>& resident, int64_t host,
                   bool disk) {
  HETMEM_ASSERT(resident.size() == trace.chunks.size());
  std::vector<Item> items = items_of(trace, resident);
  std::stable_sort(items.begin(), items.end(),
                   [](const Item& a, const Item& b) { return a.passes > b.passes; });
  std::vector<ChunkPlaces> places(trace.chunks.size());
  for (const Item& item : items) {
    if (!disk) break;
    if (item.bytes <= host) {
      host -= item.bytes;
    } else {
      on_disk(places[item.chunk], item.part) = true;
    }
  }
  return homes_at(trace, resident, places);
}

Homes homes_at(const AccessTrace& trace, const std::vector<bool>& resident,
               const std::vector<ChunkPlaces>& places) {
  Homes homes;
  homes.chunks = places;
  homes.chunks.resize(trace.chunks.size());
  for (size_t c = 0; c < trace.chunks.size(); ++c) {
    if (resident[c]) continue;
    for (const HomePart& part : parts_of(trace.chunks[c], homes.chunks[c])) {
      (part.on_disk ? homes.disk_bytes : homes.host_bytes) += part.bytes;
    }
  }
  return homes;
}

std::array<HomePart, 3> parts_of(const TraceChunk& chunk, const ChunkPlaces& places) {
  const auto part = [](MemoryKind kind, bool on_disk, int64_t bytes, int64_t trailers) {
    return HomePart{kind, on_disk, on_disk ? bytes + trailers : bytes};
  };
  return {
      part(MemoryKind::kWeights, places.weights_on_disk, chunk.weight_bytes, chunk.weight_trailers),
      part(MemoryKind::kOptimizer, places.optimizer_on_disk, chunk.optimizer_bytes,
           chunk.optimizer_trailers),
      part(MemoryKind::kGradients, places.gradient_on_disk, chunk.gradient_bytes,
           chunk.gradient_trailers)};
}

DiskUse fetch_use(const TraceChunk& chunk, const ChunkPlaces& places, bool weights) {
  const auto [of_weights, optimizer, gradient] = parts_of(chunk, places);
  const HomePart& part = weights ? of_weights : gradient;
  return {part.on_disk ? part.bytes : 0, 0};
}

DiskUse send_use(const TraceChunk& chunk, const ChunkPlaces& places) {
  const HomePart gradient = parts_of(chunk, places).back();
  return {0, gradient.on_disk ? gradient.bytes : 0};
}

DiskUse step_use(const TraceChunk& chunk, const ChunkPlaces& places) {
  DiskUse use;
  for (const HomePart& part : parts_of(chunk, places)) {
    if (!part.on_disk) continue;
    use.read += part.bytes;
    if (part.kind != MemoryKind::kGradients) use.written += part.bytes;
  }
  return use;
}

}  // namespace hetmem
