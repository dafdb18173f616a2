#include "device/link.h"

#include <gtest/gtest.h>

#include <cmath>

#include "device/cpu/memory_guard.h"
#include "device/device.h"
#include "device/thread_pool.h"

namespace hetmem {
namespace {

// How fast is for the benchmarks to say; here, that the measurement is one, and touches each memory
// only as it may.
TEST(Link, RatesAreMeasured) {
  const MemoryGuard::Session guard;
  ThreadPool pool(1);
  const LinkRates rates = measure_link_rates(*make_device({}, pool));
  for (const double rate : {rates.to_device, rates.to_host, measure_memcpy_rate()}) {
    EXPECT_TRUE(std::isfinite(rate));
    EXPECT_GT(rate, 0);
  }
}

}  // namespace
}  // namespace hetmem
