#include "chunk_manager/open_page.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/error.h"

namespace hetmem {
namespace {

// Calls visit(page, first element in it, elements before it, elements) for each page of a part.
template <typename Visit>
void visit_pages(std::vector<DiskPage>& pages, int64_t first, int64_t count, const Visit& visit) {
  for (int64_t at = first; at < first + count;) {
    DiskPage& page = pages[static_cast<size_t>(at / kPageElements)];
    const int64_t now = std::min(first + count, page.first + page.count) - at;
    visit(page, at - page.first, at - first, now);
    at += now;
  }
}

}  // namespace

std::byte* OpenPage::open(DiskPage& page, bool overwrite) {
  if (page_ != &page) {
    flush();
    data_.resize(static_cast<size_t>(page.slot.bytes()));
    if (page.generation < 0 || overwrite) {
      std::fill(data_.begin(), data_.end(), std::byte{});
    } else {
      disk_->read(page.slot, data_.data(), page.generation).wait();
    }
    page_ = &page;
    changed_ = false;
  }
  return data_.data();
}

void OpenPage::flush() {
  DiskPage* page = std::exchange(page_, nullptr);
  if (page == nullptr || !changed_) return;
  disk_->write(page->slot, data_.data(), ++page->generation).wait();
}

void OpenPage::clear(DiskPage& page) {
  HETMEM_ASSERT(page.generation < 0);
  open(page);
  changed_ = true;
  flush();
}

void OpenPage::read(std::vector<DiskPage>& pages, DType dtype, int64_t first, int64_t count,
                    void* to) {
  auto* out = static_cast<std::byte*>(to);
  visit_pages(pages, first, count, [&](DiskPage& page, int64_t in_page, int64_t done, int64_t now) {
    std::memcpy(out + list_bytes(dtype, done), open(page) + list_bytes(dtype, in_page),
                static_cast<size_t>(list_bytes(dtype, now)));
  });
}

void OpenPage::write(std::vector<DiskPage>& pages, DType dtype, int64_t first, int64_t count,
                     const void* from) {
  const auto* in = static_cast<const std::byte*>(from);
  visit_pages(pages, first, count, [&](DiskPage& page, int64_t in_page, int64_t done, int64_t now) {
    std::byte* to = open(page, now == page.count);
    std::memcpy(to + list_bytes(dtype, in_page), in + list_bytes(dtype, done),
                static_cast<size_t>(list_bytes(dtype, now)));
    changed_ = true;
  });
}

}  // namespace hetmem
