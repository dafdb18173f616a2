// Rates of the link between host and device memory, for the planner and `bench`. Each takes blocks
// of memory of its own, outside any budget, for the time of the call.
#pragma once

namespace hetmem {

class Device;

// Bytes a second.
struct LinkRates {
  double to_device;
  double to_host;
};

// Of a stream's asynchronous copies of 64 MiB between Buffers, the best of several.
LinkRates measure_link_rates(Device& device);
// Of std::memcpy() on the caller's thread over as much, to hold the link against.
double measure_memcpy_rate();

}  // namespace hetmem
