#include "runtime/run_disk.h"

#include <fmt/ranges.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <limits>
#include <map>
#include <vector>

#include "chunk_manager/page_transfers.h"
#include "core/byte_size.h"
#include "core/error.h"

namespace hetmem {
namespace {

// The staging memory of all folders in each direction, so that the whole is 64 MiB at most: smaller
// pieces for more folders, then fewer.
constexpr int64_t kLaneBytes = int64_t{8} << 20;
constexpr int64_t kLeastPiece = int64_t{128} << 10;

constexpr size_t kMeasuredAtOnce = 12;  // pages
// More than what a disk takes at once into memory of its own, where that takes not too long.
constexpr size_t kMeasuredPages = 128;

int folders_of(const TrainConfig& config) {
  return std::max(1, static_cast<int>(config.disk.size()));  // a plan may do without their names
}

DiskOptions options_of(const TrainConfig& config) {
  DiskOptions options;
  options.folders = config.disk;
  options.folders.resize(static_cast<size_t>(folders_of(config)));
  options.encrypt = config.encrypt_disk;
  const int64_t each = kLaneBytes / folders_of(config);
  options.piece_bytes = std::max(kLeastPiece, each / options.depth / kLeastPiece * kLeastPiece);
  options.depth =
      static_cast<int>(std::clamp<int64_t>(each / options.piece_bytes, 1, options.depth));
  return options;
}

// What folders have free that share the budget in equal parts, some of them on one file system.
int64_t free_bytes(const std::vector<std::string>& folders) {
  struct Place {
    int64_t free = 0;
    int64_t folders = 0;
  };
  std::map<dev_t, Place> places;
  for (const std::string& folder : folders) {
    struct stat status {};
    struct statvfs room {};
    if (::stat(folder.c_str(), &status) != 0 || ::statvfs(folder.c_str(), &room) != 0) {
      throw Error(ErrorKind::kBadInput, "--disk " + folder + ": " + std::strerror(errno) +
                                            "; give a folder that is there");
    }
    Place& place = places[status.st_dev];
    place.free = static_cast<int64_t>(room.f_bavail) * static_cast<int64_t>(room.f_frsize);
    ++place.folders;
  }
  int64_t each = std::numeric_limits<int64_t>::max();
  for (const auto& [device, place] : places) each = std::min(each, place.free / place.folders);
  return each * static_cast<int64_t>(folders.size());
}

}  // namespace

int64_t disk_staging_bytes(const TrainConfig& config) {
  return DiskTier::staging_bytes(options_of(config)) + PageTransfers::staging_bytes() +
         ChunkManager::staging_bytes();
}

bool host_holds_staging(const TrainConfig& config) {
  return config.disk_memory == 0 || config.host_memory <= 0 ||
         config.host_memory >= disk_staging_bytes(config);
}

void add_disk(const TrainConfig& config, const MachineRates& machine, TierBudgets& budgets) {
  budgets.disk = config.disk_memory;
  if (budgets.disk == kAutoBytes) {
    budgets.disk = machine.disk_memory > 0 ? machine.disk_memory : free_bytes(config.disk) / 10 * 9;
    if (budgets.disk == 0) {
      throw Error(ErrorKind::kStorage,
                  fmt::format("--disk {}: there is no free space; make some, or "
                              "name another folder",
                              fmt::join(config.disk, ",")));
    }
  }
  if (budgets.disk == 0) return;
  budgets.staging = disk_staging_bytes(config);
  if (!host_holds_staging(config)) {
    throw Error(ErrorKind::kDoesNotFit,
                fmt::format("--host-memory {} is less than the {} of staging memory that a disk "
                            "takes; give at least {}, or 0 for those alone",
                            format_byte_size(config.host_memory), format_byte_size(budgets.staging),
                            budgets.staging));
  }
  budgets.host = std::max(budgets.host, budgets.staging);
  // A page of each folder may find no place in what pages before it have left there.
  budgets.disk_margin = folders_of(config) * DiskTier::stored_bytes(kPageBytes);
}

int64_t disk_file_bytes(const TierBudgets& budgets, const ChunkLayout& layout,
                        const MomentLists& moments) {
  int64_t sum = 0;
  int64_t largest = 0;
  for (const ChunkShape& shape : layout.chunks) {
    const int64_t bytes = ChunkHome::disk_bytes(shape, moments, {false, {true, true, true}});
    sum += bytes;
    largest = std::max(largest, bytes);
  }
  return std::min(budgets.disk, sum + largest + budgets.disk_margin);
}

std::unique_ptr<DiskTier> open_disk(const TrainConfig& config, const TierBudgets& budgets,
                                    int64_t bytes, Tier& host) {
  if (budgets.disk == 0) return nullptr;
  if (config.disk.empty()) {
    throw Error(ErrorKind::kBadInput,
                "--disk-memory is given without --disk DIR, which says where; give both");
  }
  DiskOptions options = options_of(config);
  options.budget = bytes;
  return std::make_unique<DiskTier>(options, host);
}

bool measure_disk(DiskTier& disk, Tier& host, CopyRates& rates) {
  constexpr double kEnoughSeconds = 0.25;
  std::vector<DiskSlot> slots;
  for (size_t i = 0; i < kMeasuredPages; ++i) {
    try {
      slots.push_back(disk.allocate("of a measurement", kPageBytes, MemoryKind::kStaging));
    } catch (const Error& error) {  // no folder has a page left
      if (error.kind() != ErrorKind::kDoesNotFit) throw;
      break;
    }
  }
  if (slots.size() < 2) return false;
  Buffer memory(host, static_cast<int64_t>(kMeasuredAtOnce) * kPageBytes, MemoryKind::kStaging,
                MemorySpace::kHost);
  memory.populate();
  // Of start(0, page), start(1, page) ... start(most - 1, page), as many as there is time for, of
  // which there were `done`.
  size_t done = 0;
  const auto rate = [&](size_t most, const auto& start) {
    const auto begin = std::chrono::steady_clock::now();
    const auto seconds = [&] {
      return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    };
    std::vector<DiskOperation> under_way(kMeasuredAtOnce);
    for (done = 0; done < most && (done < kMeasuredAtOnce || seconds() < kEnoughSeconds); ++done) {
      DiskOperation& at = under_way[done % kMeasuredAtOnce];
      if (done >= kMeasuredAtOnce) at.wait();
      at = start(done, static_cast<char*>(memory.data()) +
                           static_cast<int64_t>(done % kMeasuredAtOnce) * kPageBytes);
    }
    for (size_t i = 0; i < std::min(done, kMeasuredAtOnce); ++i) under_way[i].wait();
    return static_cast<double>(done) * static_cast<double>(DiskTier::stored_bytes(kPageBytes)) /
           std::max(seconds(), 1e-9);
  };
  rates.disk_write =
      rate(slots.size(), [&](size_t i, char* page) { return disk.write(slots[i], page, 0); });
  const size_t written = done;
  rates.disk_read =
      rate(written, [&](size_t i, char* page) { return disk.read(slots[i], page, 0); });
  // In turns one that was written is read and one of the others is written again.
  rates.disk_both = rate(written, [&](size_t i, char* page) {
    return i % 2 == 0 ? disk.read(slots[i], page, 0) : disk.write(slots[i], page, 1);
  });
  return true;
}

void measure_disk_of(const std::vector<std::string>& folders, CopyRates& rates) {
  TrainConfig config;
  config.disk = folders;
  DiskOptions options = options_of(config);
  options.budget = std::min(free_bytes(folders) / 10 * 9, static_cast<int64_t>(kMeasuredPages) *
                                                              DiskTier::stored_bytes(kPageBytes));
  const int64_t memory = static_cast<int64_t>(kMeasuredAtOnce) * kPageBytes;
  Tier host("host", memory + DiskTier::staging_bytes(options));
  DiskTier disk(options, host);
  if (measure_disk(disk, host, rates)) return;
  throw Error(ErrorKind::kStorage,
              fmt::format("--disk {}: there is no free space to measure it with; make some, or "
                          "name another folder",
                          fmt::join(folders, ",")));
}

}  // namespace hetmem
