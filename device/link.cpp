#include "device/link.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "device/cpu/memory_guard.h"
#include "device/device.h"
#include "device/tier.h"

namespace hetmem {
namespace {

constexpr int64_t kBlock = int64_t{64} << 20;
constexpr int kTimes = 7;

// A block in each space, its pages there.
struct Blocks {
  Blocks(Memory& host_memory, Memory& device_memory)
      : host_tier("host", kBlock, host_memory), device_tier("device", kBlock, device_memory) {
    host.populate();
    device.populate();
  }
  Tier host_tier;
  Tier device_tier;
  Buffer host{host_tier, kBlock, MemoryKind::kStaging, MemorySpace::kHost};
  Buffer device{device_tier, kBlock, MemoryKind::kStaging, MemorySpace::kDevice};
};

template <typename Copy>
double best_rate(const Copy& copy) {
  double best = 0;
  for (int i = 0; i < kTimes; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    copy();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    best = std::max(best, static_cast<double>(kBlock) / seconds.count());
  }
  return best;
}

}  // namespace

LinkRates measure_link_rates(Device& device) {
  const Blocks blocks(device.host_memory(), device.memory());
  const std::unique_ptr<Stream> link = device.make_stream("link");
  const auto rate = [&](const Buffer& to, const Buffer& from, CopyDirection direction) {
    return best_rate([&] {
      link->copy(to.data(), from.data(), kBlock, direction);
      link->synchronize();
    });
  };
  return {rate(blocks.device, blocks.host, CopyDirection::kToDevice),
          rate(blocks.host, blocks.device, CopyDirection::kToHost)};
}

double measure_memcpy_rate() {
  const Blocks blocks(system_memory(), system_memory());
  const MemoryGuard::Scope scope(MemoryGuard::Access::kCopy);
  return best_rate(
      [&] { std::memcpy(blocks.device.data(), blocks.host.data(), static_cast<size_t>(kBlock)); });
}

}  // namespace hetmem
