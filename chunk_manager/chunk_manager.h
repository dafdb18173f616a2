// ChunkManager: the chunks of a model and where each has its home. The home of a chunk holds its
// weights (fp32, or split into bf16 and int16 where products read bf16) and optimizer state, and
// (on the host) its gradients while they wait for the optimizer: on the device for chunks that
// stay, else on the host. Streamed chunks have a copy of their weights on the device while the Plan
// says so; what was not written is dropped, never copied back.
//
//   ChunkManager chunks(layout, /*moments=*/2, device, host, transfers);
//   chunks.place(plan.resident);
//   chunks.write(ChunkList::kWeights, tensor, [&](float* to, int64_t first, int64_t count) {...});
//
// A chunk at home on the host may have a twin: spare memory for its state, into which a step can
// write while what it began with stays; flip() makes the twin the state.
//
// A pinned chunk cannot move; several users may pin it. What moves or writes chunks waits for a
// ChunkSnapshot that is being read. Not thread-safe: one thread at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "core/tensor_view.h"
#include "device/tier.h"
#include "offload/transfer_engine.h"
#include "planner/chunk_layout.h"

namespace hetmem {

enum class ChunkList : uint8_t { kWeights, kFirstMoment, kSecondMoment };

class ChunkManager;
class ChunkSnapshot;

// Keeps a chunk where it is. Move-only; releases in the destructor; must not outlive its manager.
class ChunkPin {
 public:
  ChunkPin() = default;
  ChunkPin(ChunkPin&& other) noexcept;
  ChunkPin& operator=(ChunkPin&& other) noexcept;
  ~ChunkPin();
  void release();
  int chunk() const { return chunk_; }

 private:
  friend class ChunkManager;
  ChunkPin(ChunkManager* manager, int chunk) : manager_(manager), chunk_(chunk) {}
  ChunkManager* manager_ = nullptr;
  int chunk_ = -1;
};

class ChunkManager {
 public:
  // `moments`: fp32 tensors that the optimizer keeps for each trained one.
  ChunkManager(const ChunkLayout& layout, int moments, Tier& device, Tier& host,
               TransferEngine& transfers);

  // Gives every chunk its home: at first memory, later by moving chunks, one at a time, those that
  // leave the device first. Throws Error: kDoesNotFit where a tier has no room, kInternal for a
  // pinned chunk; every chunk is then whole where it was or where it goes. Chunks with a twin are
  // those of `twins` (by chunk; empty: none).
  void place(const std::vector<bool>& resident, const std::vector<bool>& twins = {});
  bool resident(int chunk) const { return home(chunk).on_device; }
  const std::vector<bool> residents() const;

  const ChunkLayout& layout() const { return layout_; }
  int moments() const { return moments_; }
  // Weights, and moments of what is trained.
  int lists(int chunk) const { return shape(chunk).trained ? 1 + moments_ : 1; }

  // A chunk's part of a list at its home, in the memory space of the home: fp32, but for weights
  // that are split, of which these are the high halves, bf16, and low() the others, int16.
  TensorView whole(ChunkList list, int chunk) const;
  TensorView low(int chunk) const;
  // Where the gradients of a streamed chunk wait on the host.
  TensorView waiting_gradient(int chunk) const;
  // As whole() and low(), of the twin of a chunk, which must have one.
  TensorView twin(ChunkList list, int chunk) const;
  TensorView twin_low(int chunk) const;
  // State and twin change places; nothing may be using either as what it was.
  void flip(int chunk);

  int64_t state_bytes(int chunk) const;
  // To be called before work is enqueued that changes them: a snapshot that is being read may need
  // what is there. May block.
  void before_change(int chunk, Stream& stream);

  ChunkPin pin(int chunk);
  int pins(int chunk) const { return home(chunk).pins; }

  // Reads or writes a tensor in fp32, elements in order, wherever it is, in blocks of up to kBlock
  // elements.
  static constexpr int64_t kBlock = int64_t{1} << 20;
  using Sink = std::function<void(const float* data, int64_t count)>;
  using Source = std::function<void(float* destination, int64_t first, int64_t count)>;
  void read(ChunkList list, int tensor, const Sink& sink);
  void write(ChunkList list, int tensor, const Source& source);

 private:
  friend class ChunkPin;
  friend class ChunkSnapshot;
  struct Home {
    Buffer buffer;
    bool on_device = false;
    int pins = 0;
    Buffer spare;          // with the bytes of a state; empty: no twin
    bool flipped = false;  // the state is in `spare`
    const Buffer& state() const { return flipped ? spare : buffer; }
    const Buffer& twin() const { return flipped ? buffer : spare; }
  };
  const Home& home(int chunk) const { return homes_[static_cast<size_t>(chunk)]; }
  const ChunkShape& shape(int chunk) const { return layout_.chunks[static_cast<size_t>(chunk)]; }
  BytesByKind bytes_of(int chunk, bool on_device) const;
  Buffer allocate(int chunk, bool on_device);
  void move(int chunk, bool to_device);
  // The weights of a chunk that is split, in fp32.
  void read_halves(int chunk, int64_t first, int64_t count, float* to) const;
  void write_halves(int chunk, int64_t first, int64_t count, const float* from);
  void place_homes(const std::vector<bool>& resident);
  void drop_twin(int chunk);
  void make_twin(int chunk);
  TensorView list_view(const Buffer& buffer, ChunkList list, int chunk) const;
  TensorView low_view(const Buffer& buffer, int chunk) const;
  void copy_out(const TensorView& from, int64_t first, int64_t count, void* to) const;
  void copy_in(const TensorView& to, int64_t first, int64_t count, const void* from);

  const ChunkLayout& layout_;
  const int moments_;
  Tier& device_;
  Tier& host_;
  TransferEngine& transfers_;
  std::vector<Home> homes_;
  ChunkSnapshot* snapshot_ = nullptr;  // that is being read
};

}  // namespace hetmem
