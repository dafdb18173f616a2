// OpenPage: one page of a list that is on disk, in memory while elements of it are read or changed
// one after the other. What was changed is written back when another page is opened, and by
// flush(). Not thread-safe: whoever reads or writes has one of its own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "chunk_manager/chunk_home.h"

namespace hetmem {

class OpenPage {
 public:
  explicit OpenPage(DiskTier* disk) : disk_(disk) {}

  // Elements [first, first + count) of a list that is on disk (list_bytes()); what was never
  // written is zero. Throws Error (kStorage, kCorrupt) naming the chunk.
  void read(std::vector<DiskPage>& pages, DType dtype, int64_t first, int64_t count, void* to);
  void write(std::vector<DiskPage>& pages, DType dtype, int64_t first, int64_t count,
             const void* from);
  // Writes zeros to a page that was never written.
  void clear(DiskPage& page);
  // To be called before anyone else uses the page.
  void flush();
  // Forgets a page that is gone, or whose contents are worth nothing any more.
  void discard() { page_ = nullptr; }

 private:
  // Reads the page, unless `overwrite`: all of it is written next.
  std::byte* open(DiskPage& page, bool overwrite = false);

  DiskTier* disk_;
  std::vector<std::byte> data_;
  DiskPage* page_ = nullptr;
  bool changed_ = false;
};

}  // namespace hetmem
