#include "chunk_manager/page_transfers.h"

#include <algorithm>
#include <array>

#include "core/error.h"

namespace hetmem {
namespace {

// About three pages of every list of a chunk, so that one is read while one is stepped and one
// written.
constexpr int64_t kPassedPages = 13;
// Two are read while one is copied.
constexpr int64_t kFetchedPages = 3;

constexpr std::array kStepLists{ChunkList::kWeights, ChunkList::kLow, ChunkList::kGradient,
                                ChunkList::kFirstMoment, ChunkList::kSecondMoment};

Event copy_of(const Event& event) { return Event(event.state()); }

TensorView& view_of(PageOfChunk& page, ChunkList list) {
  switch (list) {
    case ChunkList::kWeights:
      return page.weight;
    case ChunkList::kLow:
      return page.low;
    case ChunkList::kGradient:
      return page.gradient;
    case ChunkList::kFirstMoment:
      return page.first_moment;
    case ChunkList::kSecondMoment:
      break;
  }
  return page.second_moment;
}

}  // namespace

int64_t PageTransfers::staging_bytes() { return (kFetchedPages + kPassedPages) * kPageBytes; }

PageTransfers::PageTransfers(ChunkManager& chunks, Tier& host)
    : chunks_(chunks),
      memory_(host, staging_bytes(), MemoryKind::kStaging, MemorySpace::kHost),
      fetches_("disk fetch", *chunks.disk()),
      reads_("disk read", *chunks.disk()),
      writes_("disk write", *chunks.disk()) {
  memory_.populate();
  for (int64_t i = 0; i < kFetchedPages + kPassedPages; ++i) {
    Ring& ring = i < kFetchedPages ? fetched_ : passed_;
    ring.pages.push_back({static_cast<char*>(memory_.data()) + i * kPageBytes, {}});
  }
}

template <typename Look>
void PageTransfers::look_at_streams(const Look& look) {
  for (DiskStream* stream : {&writes_, &reads_, &fetches_}) {
    try {
      look(*stream);
    } catch (...) {
      if (!error_) error_ = std::current_exception();
    }
  }
  if (error_) std::rethrow_exception(error_);
}

void PageTransfers::synchronize() {
  look_at_streams([](DiskStream& stream) { stream.synchronize(); });
}

void PageTransfers::check() {
  look_at_streams([](DiskStream& stream) { stream.check(); });
}

PageTransfers::Staging& PageTransfers::Ring::next() {
  Staging& staging = pages[at];
  at = (at + 1) % pages.size();
  return staging;
}

PageTransfers::Staging& PageTransfers::read(DiskPage& page, Ring& ring, DiskStream& reads) {
  HETMEM_ASSERT(page.generation >= 0);
  Staging& staging = ring.next();
  reads.wait(staging.free);
  reads.wait(page.busy);
  reads.read(page.slot, staging.data, page.generation);
  read_bytes_ += DiskTier::stored_bytes(page.slot.bytes());
  page.busy = reads.record();
  return staging;
}

void PageTransfers::write(DiskPage& page, Staging& from, const Event& ready) {
  writes_.wait(ready);
  writes_.wait(page.busy);
  writes_.write(page.slot, from.data, ++page.generation);
  written_bytes_ += DiskTier::stored_bytes(page.slot.bytes());
  page.busy = writes_.record();
  from.free = copy_of(page.busy);
}

void PageTransfers::fetch(ChunkList list, int chunk, void* device, Stream& to_device) {
  auto* to = static_cast<char*>(device);
  for (DiskPage& page : chunks_.pages(list, chunk)) {
    Staging& staging = read(page, fetched_, fetches_);
    to_device.wait(page.busy);
    to_device.copy(to, staging.data, page.slot.bytes(), CopyDirection::kToDevice);
    staging.free = to_device.record();
    to += page.slot.bytes();
  }
}

void PageTransfers::send(int chunk, const void* device, Stream& to_host) {
  const auto* from = static_cast<const char*>(device);
  for (DiskPage& page : chunks_.pages(ChunkList::kGradient, chunk)) {
    Staging& staging = passed_.next();
    to_host.wait(staging.free);
    to_host.copy(staging.data, from, page.slot.bytes(), CopyDirection::kToHost);
    write(page, staging, to_host.record());
    from += page.slot.bytes();
  }
}

void PageTransfers::step(int chunk, Stream& host,
                         const std::function<void(const PageOfChunk&)>& enqueue) {
  const ChunkShape& shape = chunks_.layout().chunks[static_cast<size_t>(chunk)];
  for (int64_t first = 0; first < shape.elements; first += kPageElements) {
    PageOfChunk part;
    part.first = first;
    part.count = std::min(kPageElements, shape.elements - first);
    struct Staged {
      ChunkList list;
      DiskPage* page;
      Staging* staging;
    };
    std::vector<Staged> staged;
    for (const ChunkList list : kStepLists) {
      if (!chunks_.has(list, chunk)) continue;
      TensorView& view = view_of(part, list);
      const DType dtype = chunks_.dtype(list, chunk);
      if (!chunks_.on_disk(list, chunk)) {
        view = part_of_list(chunks_.whole(list, chunk), first, part.count);
        continue;
      }
      DiskPage& page = chunks_.pages(list, chunk)[static_cast<size_t>(first / kPageElements)];
      Staging& staging = read(page, passed_, reads_);
      host.wait(page.busy);
      view =
          part_of_list({staging.data, dtype, Shape{part.count}, MemorySpace::kHost}, 0, part.count);
      staged.push_back({list, &page, &staging});
    }
    enqueue(part);
    const Event done = host.record();
    for (const Staged& at : staged) {
      if (at.list == ChunkList::kGradient) {
        at.staging->free = copy_of(done);
      } else {
        write(*at.page, *at.staging, done);
      }
    }
  }
}

}  // namespace hetmem
