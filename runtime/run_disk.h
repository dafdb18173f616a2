// The disk of a run: what its options say of the disk tier, and the tier with its rates. Its memory
// on the host is of a fixed size, which the host's budget holds, whatever it is.
//
//   TierBudgets budgets = ...;
//   add_disk(config, machine, budgets);                     // as --disk and --disk-memory have it
//   const int64_t bytes = disk_file_bytes(budgets, layout, moments);
//   const auto disk = open_disk(config, budgets, bytes, host_tier);  // null: there is none
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "device/tier.h"
#include "offload/disk_tier.h"
#include "planner/chunk_layout.h"
#include "planner/plan.h"
#include "runtime/machine.h"
#include "runtime/train_config.h"

namespace hetmem {

// Fills what budgets say of the disk. `auto` is what a described machine has, else 90 % of what is
// free in the folders. Throws Error: kBadInput for folders that are not there, kStorage where none
// is free, kDoesNotFit for a host budget that has no room for staging.
void add_disk(const TrainConfig& config, const MachineRates& machine, TierBudgets& budgets);

// Host memory that passing to and from the disk takes.
int64_t disk_staging_bytes(const TrainConfig& config);
// Whether --host-memory has room for that; 0 stands for it alone.
bool host_holds_staging(const TrainConfig& config);

// What the files of a run take of the disk from its start, whatever its plans are: room for all of
// its chunks and for one that moves meanwhile, as far as the budget goes.
int64_t disk_file_bytes(const TierBudgets& budgets, const ChunkLayout& layout,
                        const MomentLists& moments);

// The folders with so much space. Throws Error: kBadInput, kStorage where the disk has not the
// space, kDoesNotFit.
std::unique_ptr<DiskTier> open_disk(const TrainConfig& config, const TierBudgets& budgets,
                                    int64_t bytes, Tier& host);

// Measures what the folders of a tier read and write, for a quarter of a second each and of both,
// or the time of 24 MiB where that is longer, with memory that PageTransfers takes later. False:
// the tier has no room for it.
bool measure_disk(DiskTier& disk, Tier& host, CopyRates& rates);
// The same of folders without a tier, with at most 260 MiB of them and 90 MiB of host memory.
// Throws Error: kBadInput where they cannot be used, kStorage where they have no room for it.
void measure_disk_of(const std::vector<std::string>& folders, CopyRates& rates);

}  // namespace hetmem
