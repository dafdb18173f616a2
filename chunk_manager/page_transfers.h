// PageTransfers: chunks that are on disk, page by page through rings of staging pages on the host:
// to the device, from it, and past the optimizer. What a page waits for (its own earlier
// transfers, the user before it of a staging page) is enqueued with it, so that a caller orders
// whole chunks only, by the streams that it gives. The disk reads ahead as far as the rings go;
// what is brought to the device has a ring of its own and is not behind what the optimizer reads.
//
//   PageTransfers pages(chunks, host);
//   pages.fetch(ChunkList::kWeights, chunk, slot_in_the_pool, to_device);
//   pages.step(chunk, host_stream, [&](const PageOfChunk& page) { ... enqueue on host_stream });
//   pages.synchronize();
//
// Enqueues and returns; errors surface at synchronize() and check(), and stay: a step whose pages
// did not come is not taken back, so that what the disk holds is worth nothing any more. Everything
// it is given outlives it. Not thread-safe.
#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <vector>

#include "chunk_manager/chunk_manager.h"
#include "device/stream.h"
#include "offload/disk_stream.h"

namespace hetmem {

// Elements [first, first + count) of a chunk with all that its optimizer step takes, on the host.
struct PageOfChunk {
  int64_t first = 0;
  int64_t count = 0;
  TensorView weight;
  TensorView low;  // empty where weights are not split
  TensorView gradient;
  TensorView first_moment;
  TensorView second_moment;  // empty where the optimizer keeps one
};

class PageTransfers {
 public:
  // Reserves the rings in `host`; the chunks have a disk. Throws Error (kDoesNotFit).
  PageTransfers(ChunkManager& chunks, Tier& host);
  static int64_t staging_bytes();

  // Brings a list of a chunk to the device, on `to_device`.
  void fetch(ChunkList list, int chunk, void* device, Stream& to_device);
  // Takes a gradient to its pages, from device memory that is free again when `to_host` is done.
  void send(int chunk, const void* device, Stream& to_host);
  // Calls enqueue(page) for each page of a chunk some of whose lists are on disk, when what the
  // page needs has been asked for; what the enqueued work on `host` changes is then written back.
  void step(int chunk, Stream& host, const std::function<void(const PageOfChunk&)>& enqueue);

  // Waits for the disk; throws the first error so far, then and whenever it is called again. A read
  // of what could not be written is an error, too: that of the write comes first.
  void synchronize();
  // The same without waiting.
  void check();
  // What was asked of the disk so far, with what it keeps beside payloads.
  int64_t read_bytes() const { return read_bytes_; }
  int64_t written_bytes() const { return written_bytes_; }

 private:
  struct Staging {
    char* data = nullptr;
    Event free;  // its last user is done
  };
  struct Ring {
    std::vector<Staging> pages;
    size_t at = 0;
    Staging& next();
  };
  template <typename Look>
  void look_at_streams(const Look& look);
  Staging& read(DiskPage& page, Ring& ring, DiskStream& reads);
  void write(DiskPage& page, Staging& from, const Event& ready);

  ChunkManager& chunks_;
  Buffer memory_;
  Ring fetched_;
  Ring passed_;  // by the optimizer, and gradients on their way to the disk
  int64_t read_bytes_ = 0;
  int64_t written_bytes_ = 0;
  std::exception_ptr error_;
  DiskStream fetches_;  // last: they work on what is above
  DiskStream reads_;
  DiskStream writes_;
};

}  // namespace hetmem
