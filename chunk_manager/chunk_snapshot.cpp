#include "chunk_manager/chunk_snapshot.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "core/error.h"
#include "core/trace.h"

namespace hetmem {
namespace {

CopyDirection direction_of(MemorySpace from, MemorySpace to) {
  if (from == to) return CopyDirection::kWithin;
  return from == MemorySpace::kDevice ? CopyDirection::kToHost : CopyDirection::kToDevice;
}

}  // namespace

ChunkSnapshot::ChunkSnapshot(ChunkManager& chunks, TransferEngine& transfers)
    : chunks_(chunks),
      page_(chunks.disk()),
      reading_(transfers.make_stream("checkpoint")),
      sparing_(transfers.make_stream("spare copies")) {
  HETMEM_ASSERT(chunks.snapshot_ == nullptr);
  for (int c = 0; c < static_cast<int>(chunks.layout().chunks.size()); ++c) {
    const ChunkShape& shape = chunks.layout().chunks[static_cast<size_t>(c)];
    const int lists = chunks.lists(c);
    State& state = states_.emplace_back();
    for (const ChunkList list : kListsOfState) {
      const bool in_memory = chunks.has(list, c) && !chunks.on_disk(list, c);
      if (in_memory) state.lists.at(static_cast<size_t>(list)) = chunks.whole(list, c);
    }
    state.unread = lists * static_cast<int>(shape.pieces.size());
    unread_ += state.unread;
  }
  given_back_ = unread_ == 0;
  chunks.snapshot_ = this;
}

ChunkSnapshot::~ChunkSnapshot() { chunks_.snapshot_ = nullptr; }

void ChunkSnapshot::read(ChunkList list, int tensor, const ChunkManager::Sink& sink) {
  if (blocks_.empty()) make_blocks();
  const int64_t most = blocks_.elements();
  for (const PieceOf& at : chunks_.layout().pieces[static_cast<size_t>(tensor)]) {
    const ChunkPiece& piece = chunks_.layout().piece(at);
    for (int64_t first = 0; first < piece.elements; first += most) {
      const int64_t count = std::min(most, piece.elements - first);
      const bool last = first + count == piece.elements;
      const int64_t from = piece.offset + first;
      if (chunks_.dtype(list, at.chunk) == DType::kBFloat16) {
        read_block(list, at.chunk, from, count, false, blocks_.high());
        read_block(ChunkList::kLow, at.chunk, from, count, last, blocks_.low());
        blocks_.join(count);
      } else {
        read_block(list, at.chunk, from, count, last, blocks_.values());
      }
      sink(blocks_.values(), words_of(chunks_.dtype(list, at.chunk), count));
    }
  }
  const std::lock_guard lock(mutex_);
  if (unread_ == 0) end_reading();
}

void ChunkSnapshot::make_blocks() {
  int64_t largest = 0;
  bool split = false;
  for (const ChunkShape& shape : chunks_.layout().chunks) {
    split = split || shape.split;
    for (const ChunkPiece& piece : shape.pieces) largest = std::max(largest, piece.elements);
  }
  blocks_.make(chunks_.rooms_of_blocks(), largest, ChunkManager::kBlock, split);
}

void ChunkSnapshot::end_reading() {
  blocks_.release();
  given_back_ = true;
  changed_.notify_all();
}

// From the spare copy where there is one; else from the home, which waits to be changed meanwhile.
// The last block of a piece passes it in one go: nobody makes a spare copy that is not waited for.
void ChunkSnapshot::read_block(ChunkList list, int chunk, int64_t first, int64_t count, bool last,
                               void* to) {
  State& state = states_[static_cast<size_t>(chunk)];
  const TensorView& home = state.lists.at(static_cast<size_t>(list));
  const auto* source = static_cast<const char*>(home.data);
  MemorySpace space = home.space;
  bool from_spare = false;
  {
    const std::lock_guard lock(mutex_);
    if (not_copied_) throw Error(ErrorKind::kInternal, "a chunk could not be copied");
    from_spare = state.spare.has_value();
    if (from_spare) {
      const auto* base = static_cast<const char*>(state.lists.front().data);  // the first list
      source = static_cast<const char*>(state.spare->data()) + (source - base);
      space = state.spare->space();
      reading_->wait(state.copied);
    } else {
      state.reading = true;
    }
  }
  const DType dtype = chunks_.dtype(list, chunk);
  if (source == nullptr) {
    page_.read(chunks_.pages(list, chunk), dtype, first, count, to);
  } else {
    reading_->copy(to, source + list_bytes(dtype, first), list_bytes(dtype, count),
                   direction_of(space, MemorySpace::kHost));
    reading_->synchronize();
  }
  if (from_spare) sparing_->check();  // what was waited for may have failed
  std::optional<Buffer> done;         // given back without the lock
  const std::lock_guard lock(mutex_);
  state.reading = false;
  if (last) {
    HETMEM_ASSERT(state.unread > 0);
    --unread_;
    if (--state.unread == 0) state.spare.swap(done);
  }
  changed_.notify_all();
}

void ChunkSnapshot::stop() {
  std::vector<std::pair<Buffer, Event>> unread;  // given back without the lock
  {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
    for (State& state : states_) {
      state.reading = false;
      if (!state.spare) continue;
      unread.emplace_back(std::move(*state.spare), std::move(state.copied));
      state.spare.reset();
    }
    changed_.notify_all();
  }
  for (const auto& [spare, copied] : unread) copied.synchronize();
  unread.clear();
  const std::lock_guard lock(mutex_);
  end_reading();
}

template <typename Condition>
void ChunkSnapshot::wait_until(std::unique_lock<std::mutex>& lock, const Condition& condition) {
  if (condition()) return;
  const trace::Range range("trainer", "wait for checkpoint");
  const auto begin = std::chrono::steady_clock::now();
  changed_.wait(lock, condition);
  waited_seconds_ +=
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// What has become the twin of its chunk is read on where it is, and what took its place is not.
bool ChunkSnapshot::is_read(const State& state, const TensorView& there) const {
  const void* from = state.lists.front().data;  // of chunks on disk there may be none
  return state.unread > 0 && !stopped_ && !state.spare && (!from || !there || from == there.data);
}

bool ChunkSnapshot::try_before_change(int chunk, const TensorView& there, Stream& stream) {
  State& state = states_[static_cast<size_t>(chunk)];
  {
    const std::lock_guard lock(mutex_);
    if (!is_read(state, there)) return true;
  }
  // Without the lock: where memory is pinned, that takes longer than the reader may be held up.
  std::optional<Buffer> spare = find_room(chunk);
  std::unique_lock lock(mutex_);
  if (spare) wait_until(lock, [&] { return !state.reading; });  // one block
  if (!is_read(state, there)) return true;
  if (spare) copy_to(std::move(*spare), state, stream);
  return state.spare.has_value();
}

void ChunkSnapshot::before_change(int chunk, const TensorView& there, Stream& stream) {
  if (try_before_change(chunk, there, stream)) return;
  const State& state = states_[static_cast<size_t>(chunk)];
  std::unique_lock lock(mutex_);
  ++without_room_;
  wait_until(lock, [&] { return !is_read(state, there); });
}

std::optional<Buffer> ChunkSnapshot::find_room(int chunk) {
  if (chunks_.any_on_disk(chunk)) return std::nullopt;
  return first_that_fits(chunks_.rooms_, [&](const SpareRoom& room) {
    return Buffer(*room.tier, chunks_.state_bytes(chunk), MemoryKind::kStaging, room.space);
  });
}

void ChunkSnapshot::copy_to(Buffer spare, State& state, Stream& stream) {
  state.spare = std::move(spare);
  const int64_t bytes = state.spare->bytes();
  not_copied_ = true;  // where what follows throws
  sparing_->copy(state.spare->data(), state.lists.front().data, bytes,
                 direction_of(state.lists.front().space, state.spare->space()));
  state.copied = sparing_->record();
  stream.wait(state.copied);
  not_copied_ = false;
  spared_bytes_ += bytes;
}

void ChunkSnapshot::wait() {
  std::unique_lock lock(mutex_);
  wait_until(lock, [&] { return given_back_; });
}

double ChunkSnapshot::waited_seconds() const {
  const std::lock_guard lock(mutex_);
  return waited_seconds_;
}

int64_t ChunkSnapshot::spared_bytes() const {
  const std::lock_guard lock(mutex_);
  return spared_bytes_;
}

int64_t ChunkSnapshot::chunks_without_room() const {
  const std::lock_guard lock(mutex_);
  return without_room_;
}

}  // namespace hetmem
