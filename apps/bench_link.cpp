// bench link: asynchronous copies between the two tiers beside memcpy.
#include <algorithm>

#include "apps/bench.h"
#include "device/device.h"
#include "device/link.h"
#include "device/thread_pool.h"

namespace hetmem::apps {

std::vector<BenchResult> bench_link(const BenchOptions& options) {
  ThreadPool pool(options.threads);
  const std::unique_ptr<Device> device = make_device(parse_device("cpu"), pool);
  LinkRates link{};
  double memcpy_rate = 0;
  for (int64_t i = 0; i < options.repeats; ++i) {
    const LinkRates now = measure_link_rates(*device);
    link.to_device = std::max(link.to_device, now.to_device);
    link.to_host = std::max(link.to_host, now.to_host);
    memcpy_rate = std::max(memcpy_rate, measure_memcpy_rate());
  }
  const auto result = [&](const char* name, double rate) {
    return BenchResult{name,
                       rate * 1e-9,
                       "GB/s",
                       "memcpy, one thread",
                       memcpy_rate * 1e-9,
                       rate / memcpy_rate,
                       {{"threads", pool.threads()}}};
  };
  return {result("link to the device", link.to_device), result("link to the host", link.to_host)};
}

}  // namespace hetmem::apps
