// What predictions reckon with: the rates of a machine. Measured ones are kept under
// $XDG_CACHE_HOME/hetmem, by machine; `--machine FILE.json` names those of another.
#pragma once

#include <string>
#include <vector>

#include "device/device.h"
#include "graph/compile.h"
#include "planner/access_trace.h"

namespace hetmem {

struct MachineRates {
  double gemm_flops = 0;        // per second, all threads, fp32
  double bf16_flops = 0;        // the same of products in bf16; 0 where there are none
  double memory_bandwidth = 0;  // bytes a second
  CopyRates copies;             // bytes a second between device, host and disk
  // Of a machine whose device has its own memory (a file may say so): what the optimizer on the
  // host has (0: memory_bandwidth), whether it takes its time from the device, and what there is of
  // each memory and of the disk (0: what is free here).
  double host_bandwidth = 0;
  bool host_shares_compute = true;
  int64_t device_memory = 0;
  int64_t host_memory = 0;
  int64_t disk_memory = 0;
  std::string source = "assumed";       // "measured", "file" or "assumed"
  std::string disk_source = "assumed";  // of the disk's; or "measured in /a,/b"
};

// Of a device of this machine: as measured before, else assumed. With a path, of the file: throws
// Error (kBadInput) naming what is missing.
MachineRates load_rates(const std::string& machine_file = "", const DeviceId& device = {});
// Measures and keeps them; `pool` is the host's. Takes about a second, and less than 200 MiB of
// host memory meanwhile. With folders, those of their disks too (one second more, run_disk.h says
// what is thrown); without, what was kept of a disk stays.
MachineRates measure_rates(Device& device, ThreadPool& pool,
                           const std::vector<std::string>& disk = {});
// The same where none are kept yet and they can be.
void keep_rates(const DeviceId& device);

// "AMD EPYC 7B13", as the system says.
std::string processor_name();

// Seconds of one call of a step of a Program.
double step_seconds(const Step& step, const MachineRates& rates);

}  // namespace hetmem
