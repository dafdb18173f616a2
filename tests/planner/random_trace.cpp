#include "tests/planner/random_trace.h"

#include <algorithm>

#include "planner/plan.h"

namespace hetmem {
namespace {

class Maker {
 public:
  Maker(uint64_t seed, const RandomTraceOptions& options) : random_(seed), options_(options) {}

  AccessTrace run() {
    const int layers = static_cast<int>(random_.between(1, options_.most_layers));
    const int groups =
        random_.chance(50) ? 1 : static_cast<int>(random_.between(1, options_.most_groups));
    for (int layer = 0; layer < layers; ++layer) {
      const int64_t count = random_.between(1, options_.most_chunks_a_layer);
      chunks_of_layer_.emplace_back();
      for (int64_t i = 0; i < count; ++i) chunks_of_layer_.back().push_back(add_chunk());
    }
    // Some layers use a chunk of another layer, too (tied weights, norms that share a chunk).
    for (int layer = 1; layer < layers; ++layer) {
      if (random_.chance(25)) chunks_of_layer_[at(layer)].push_back(chunks_of_layer_[0][0]);
    }
    for (int group = 0; group < groups; ++group) add_passes(group, layers);
    finish();
    return std::move(trace_);
  }

 private:
  static size_t at(int i) { return static_cast<size_t>(i); }

  int add_chunk() {
    TraceChunk chunk;
    chunk.weight_bytes =
        random_.chance(20) ? random_.between(1, 64) * 16 : random_.between(8, 64) * 1024;
    if (!random_.chance(15)) {
      chunk.gradient_bytes = chunk.weight_bytes;
      chunk.optimizer_bytes = chunk.weight_bytes * random_.between(1, 2);
      chunk.host_step_seconds =
          1e-9 * static_cast<double>(chunk.weight_bytes * random_.between(1, 4));
      chunk.early_step_seconds = 1.5 * chunk.host_step_seconds;
      chunk.device_step_seconds = chunk.host_step_seconds;
      if (random_.chance(50)) chunk.device_step_seconds /= 8;
    }
    trace_.chunks.push_back(chunk);
    return static_cast<int>(trace_.chunks.size()) - 1;
  }

  int add_op() {
    trace_.op_seconds.push_back(1e-9 * static_cast<double>(random_.between(1, 100) * 1024));
    return trace_.ops() - 1;
  }

  void add_read(int c, int op) {
    std::vector<int>& reads = trace_.chunks[at(c)].reads;
    if (reads.empty() || reads.back() != op) reads.push_back(op);
  }

  void add_write(int c, int op, int group) {
    TraceChunk& chunk = trace_.chunks[at(c)];
    if (!chunk.trained()) return;
    run_of_.resize(trace_.chunks.size(), -1);
    if (run_of_[at(c)] == group) {
      chunk.writes.back().last = op;
    } else {
      chunk.writes.push_back({op, op});
      run_of_[at(c)] = group;
    }
  }

  void add_passes(int group, int layers) {
    std::vector<int> saved;
    for (int layer = 0; layer < layers; ++layer) {
      const int op = add_op();
      for (const int c : chunks_of_layer_[at(layer)]) add_read(c, op);
      saved.push_back(static_cast<int>(trace_.buffers.size()));
      trace_.buffers.push_back({random_.between(1, 48) * 512 + random_.between(0, 511),
                                MemoryKind::kActivationsSaved, op, op});
      add_temporary(op);
    }
    for (int layer = layers - 1; layer >= 0; --layer) {
      const int first = add_op();
      const bool apart = random_.chance(50);  // the gradient of weights is an op of its own
      const int second = apart ? add_op() : first;
      for (const int c : chunks_of_layer_[at(layer)]) {
        add_read(c, first);
        add_write(c, second, group);
      }
      trace_.buffers[at(saved[at(layer)])].last = second;
      add_temporary(first);
    }
  }

  void add_temporary(int op) {
    if (!random_.chance(60)) return;
    const int first = std::max(0, op - static_cast<int>(random_.between(0, 2)));
    trace_.buffers.push_back(
        {random_.between(1, 40) * 700, MemoryKind::kActivationsTemporary, first, op});
  }

  void finish() {
    // A norm after the last gradient of each chunk, as an op of its own.
    for (TraceChunk& chunk : trace_.chunks) {
      if (!chunk.trained()) continue;
      if (random_.chance(50)) chunk.writes.back().last = add_op();
      chunk.in_place = chunk.writes.front().first > chunk.reads.back() && random_.chance(80);
      // Pieces of a chunk: the gradient of one is made while the weights of another are needed.
      const OpRun& only = chunk.writes.front();
      if (chunk.writes.size() == 1 && only.first <= chunk.reads.back() &&
          chunk.reads.front() < only.first && chunk.reads.back() <= only.last) {
        chunk.in_place = random_.chance(40);
      }
    }
    trace_.fixed_bytes = random_.between(0, 64) * 64;
    trace_.input_bytes = random_.between(1, 64) * 8;
    trace_.output_bytes = random_.between(1, 64) * 8;
    trace_.host_shares_compute = random_.chance(50);
  }

  Random random_;
  const RandomTraceOptions options_;
  AccessTrace trace_;
  std::vector<std::vector<int>> chunks_of_layer_;
  std::vector<int> run_of_;  // by chunk
};

}  // namespace

AccessTrace random_trace(uint64_t seed, const RandomTraceOptions& options) {
  return Maker(seed, options).run();
}

CopyRates random_rates(uint64_t seed) {
  Random random(seed ^ 0xABCDEF);
  const auto rate = [&] { return 1e9 * 0.25 * static_cast<double>(random.between(1, 16)); };
  const double to_device = rate();
  return {to_device, rate()};
}

int64_t state_of(const AccessTrace& trace) {
  return host_bytes(trace, std::vector<bool>(trace.chunks.size(), false));
}

}  // namespace hetmem
