// Streams, events, copies and memory of a GPU. What takes part of the CPU's is gated, so that every
// order that is asserted is forced and no time is waited for.
#include <gtest/gtest.h>

#include <future>
#include <numeric>
#include <thread>
#include <vector>

#include "core/error.h"
#include "device/device.h"
#include "device/link.h"
#include "device/thread_pool.h"
#include "device/tier.h"
#include "tests/gpu.h"

namespace hetmem {
namespace {

constexpr int64_t kCount = int64_t{1} << 20;
constexpr int64_t kBytes = kCount * static_cast<int64_t>(sizeof(int));

class CudaDevice : public testing::Test {
 protected:
  void SetUp() override {
    HETMEM_REQUIRE_GPU();
    gpu_ = make_device(parse_device("cuda"), pool_);
    device_tier_ = std::make_unique<Tier>("device", int64_t{1} << 50, gpu_->memory());
    host_tier_ = std::make_unique<Tier>("host", int64_t{1} << 50, gpu_->host_memory());
  }
  Buffer on_device(int64_t bytes = kBytes) {
    return {*device_tier_, bytes, MemoryKind::kWeights, MemorySpace::kDevice};
  }
  // Filled with first, first + 1, ...
  Buffer on_host(int first) {
    Buffer buffer(*host_tier_, kBytes, MemoryKind::kWeights, MemorySpace::kHost);
    int* values = ints(buffer);
    std::iota(values, values + kCount, first);
    return buffer;
  }
  static int* ints(const Buffer& buffer) { return static_cast<int*>(buffer.data()); }
  static bool counts_from(const Buffer& buffer, int first) {
    for (int64_t i = 0; i < kCount; ++i) {
      if (ints(buffer)[i] != first + static_cast<int>(i)) return false;
    }
    return true;
  }

  ThreadPool pool_{2};
  std::unique_ptr<Device> gpu_;
  std::unique_ptr<Tier> device_tier_;
  std::unique_ptr<Tier> host_tier_;
};

TEST_F(CudaDevice, CopiesAreWholeAndCountedByDirection) {
  const auto stream = gpu_->make_stream("s");
  EXPECT_EQ(stream->kind(), DeviceKind::kCuda);
  EXPECT_EQ(stream->space(), MemorySpace::kDevice);
  const Buffer one = on_device();
  const Buffer two = on_device();
  const Buffer from = on_host(3);
  const Buffer to = on_host(0);
  stream->copy(one.data(), from.data(), kBytes, CopyDirection::kToDevice);
  stream->copy(two.data(), one.data(), kBytes, CopyDirection::kWithin);
  stream->copy(to.data(), two.data(), kBytes - 4, CopyDirection::kToHost);
  const Event done = stream->record();
  stream->synchronize();
  EXPECT_TRUE(done.complete());
  EXPECT_EQ(ints(to)[kCount - 1], kCount - 1);
  ints(to)[kCount - 1] = 3 + kCount - 1;
  EXPECT_TRUE(counts_from(to, 3));
  EXPECT_EQ(stream->copied_bytes(CopyDirection::kToDevice), kBytes);
  EXPECT_EQ(stream->copied_bytes(CopyDirection::kWithin), kBytes);
  EXPECT_EQ(stream->copied_bytes(CopyDirection::kToHost), kBytes - 4);
}

TEST_F(CudaDevice, HostMemoryThatIsNotPinnedIsCopiedToo) {
  const auto stream = gpu_->make_stream("s");
  const Buffer there = on_device();
  std::vector<int> from(kCount, 7);
  std::vector<int> to(kCount, 0);
  stream->copy(there.data(), from.data(), kBytes, CopyDirection::kToDevice);
  stream->copy(to.data(), there.data(), kBytes, CopyDirection::kToHost);
  stream->synchronize();
  EXPECT_EQ(to, from);
}

TEST_F(CudaDevice, MemoryBeginsAsZero) {
  const auto stream = gpu_->make_stream("s");
  for (int round = 0; round < 3; ++round) {
    const Buffer there = on_device();
    const Buffer back = on_host(5);
    stream->copy(back.data(), there.data(), kBytes, CopyDirection::kToHost);
    stream->synchronize();
    EXPECT_EQ(std::accumulate(ints(back), ints(back) + kCount, int64_t{0}), 0);
    const Buffer numbers = on_host(1);
    stream->copy(there.data(), numbers.data(), kBytes, CopyDirection::kToDevice);
    stream->synchronize();
  }
  EXPECT_EQ(device_tier_->used(), 0);
}

TEST_F(CudaDevice, WhatIsAllocatedIsTouched) {
  const Buffer there = on_device();
  EXPECT_EQ(device_tier_->touched_bytes(), kBytes);
  EXPECT_EQ(there.touched_bytes(), kBytes);
  const Buffer here = on_host(0);
  EXPECT_EQ(host_tier_->touched_bytes(), kBytes);
  EXPECT_GT(gpu_->free_memory(), 0);
}

// Out by one queue and back by another: events order them, and nothing else does.
TEST_F(CudaDevice, EventsOrderStreams) {
  const auto out = gpu_->make_stream("out");
  const auto in = gpu_->make_stream("in");
  const Buffer there = on_device();
  const Buffer back = on_host(0);
  for (int round = 0; round < 50; ++round) {
    const Buffer first = on_host(round);
    const Buffer second = on_host(-round - 1);
    out->copy(there.data(), first.data(), kBytes, CopyDirection::kToDevice);
    in->wait(out->record());
    in->copy(back.data(), there.data(), kBytes, CopyDirection::kToHost);
    out->wait(in->record());
    out->copy(there.data(), second.data(), kBytes, CopyDirection::kToDevice);
    out->synchronize();
    in->synchronize();
    ASSERT_TRUE(counts_from(back, round));
  }
}

TEST_F(CudaDevice, WaitsForWorkOfTheHost) {
  CpuStream host("host", pool_, MemorySpace::kHost);
  const auto stream = gpu_->make_stream("s");
  const Buffer from = on_host(0);
  const Buffer there = on_device();
  const Buffer back = on_host(0);
  std::promise<void> gate;
  host.enqueue([&](ThreadPool&) {
    gate.get_future().wait();
    std::iota(ints(from), ints(from) + kCount, 40);
  });
  stream->wait(host.record());
  stream->copy(there.data(), from.data(), kBytes, CopyDirection::kToDevice);
  stream->copy(back.data(), there.data(), kBytes, CopyDirection::kToHost);
  EXPECT_EQ(stream->copied_bytes(CopyDirection::kToDevice), 0);
  gate.set_value();
  stream->synchronize();
  EXPECT_TRUE(counts_from(back, 40));
}

TEST_F(CudaDevice, TheHostWaitsForIt) {
  CpuStream host("host", pool_, MemorySpace::kHost);
  const auto stream = gpu_->make_stream("s");
  const Buffer from = on_host(11);
  const Buffer there = on_device();
  const Buffer back = on_host(0);
  bool whole = false;
  stream->copy(there.data(), from.data(), kBytes, CopyDirection::kToDevice);
  stream->copy(back.data(), there.data(), kBytes, CopyDirection::kToHost);
  host.wait(stream->record());
  host.enqueue([&](ThreadPool&) { whole = counts_from(back, 11); });
  host.synchronize();
  EXPECT_TRUE(whole);
  stream->synchronize();
}

TEST_F(CudaDevice, AnEventMayBeWaitedForByTheCaller) {
  const auto stream = gpu_->make_stream("s");
  const Buffer from = on_host(9);
  const Buffer there = on_device();
  const Buffer back = on_host(0);
  stream->copy(there.data(), from.data(), kBytes, CopyDirection::kToDevice);
  stream->copy(back.data(), there.data(), kBytes, CopyDirection::kToHost);
  const Event done = stream->record();
  done.synchronize();
  EXPECT_TRUE(done.complete());
  EXPECT_TRUE(counts_from(back, 9));
}

TEST_F(CudaDevice, TimesAreThereAfterSynchronize) {
  const auto stream = gpu_->make_stream("s");
  const Buffer from = on_host(0);
  const Buffer there = on_device();
  std::vector<double> seconds(2, 0);
  for (double& at : seconds) {
    stream->start_timer();
    stream->copy(there.data(), from.data(), kBytes, CopyDirection::kToDevice);
    stream->stop_timer(at);
  }
  stream->synchronize();
  for (const double at : seconds) EXPECT_GT(at, 0);
  EXPECT_EQ(stream->waited_seconds(), 0);
}

TEST_F(CudaDevice, WaitedSecondsAreThoseOfEventsThatWereNotComplete) {
  CpuStream host("host", pool_, MemorySpace::kHost);
  const auto producer = gpu_->make_stream("producer");
  const auto consumer = gpu_->make_stream("consumer");
  const Event done = producer->record();
  done.synchronize();
  consumer->wait(done);
  consumer->wait(Event());
  consumer->synchronize();
  EXPECT_EQ(consumer->waited_seconds(), 0);
  // The consumer is at the event when the gate opens, or it is not, as threads go: until it is.
  while (consumer->waited_seconds() == 0) {
    std::promise<void> gate;
    host.enqueue([&](ThreadPool&) { gate.get_future().wait(); });
    producer->wait(host.record());
    consumer->wait(producer->record());
    for (int i = 0; i < 100; ++i) std::this_thread::yield();
    gate.set_value();
    consumer->synchronize();
  }
  producer->synchronize();
}

TEST_F(CudaDevice, RefusedMemorySaysWhatWasAskedAndWhatIsFree) {
  constexpr int64_t kTooMuch = int64_t{1} << 46;
  try {
    on_device(kTooMuch);
    FAIL() << "64 TiB were given";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kDoesNotFit);
    const std::string message = error.what();
    for (const char* part : {"GPU 0 refused 64", "free", "lower --device-memory"}) {
      EXPECT_NE(message.find(part), std::string::npos) << message;
    }
  }
  EXPECT_EQ(device_tier_->used(), 0);
  const Buffer there = on_device();  // and all goes on
  const auto stream = gpu_->make_stream("s");
  const Buffer from = on_host(0);
  stream->copy(there.data(), from.data(), kBytes, CopyDirection::kToDevice);
  EXPECT_NO_THROW(stream->synchronize());
}

TEST_F(CudaDevice, AnErrorStopsTheStreamAndIsToldBySynchronize) {
  const auto stream = gpu_->make_stream("s");
  const auto other = gpu_->make_stream("other");
  const Buffer from = on_host(0);
  const Buffer there = on_device();
  stream->copy(nullptr, from.data(), kBytes, CopyDirection::kToDevice);
  stream->copy(there.data(), from.data(), kBytes, CopyDirection::kToDevice);
  other->wait(stream->record());
  EXPECT_NO_THROW(other->synchronize());
  try {
    stream->synchronize();
    FAIL() << "a copy to nowhere was made";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("cudaErrorInvalidValue"), std::string::npos)
        << error.what();
  }
  EXPECT_EQ(stream->copied_bytes(CopyDirection::kToDevice), 0);
  stream->copy(there.data(), from.data(), kBytes, CopyDirection::kToDevice);
  EXPECT_NO_THROW(stream->synchronize());
  EXPECT_EQ(stream->copied_bytes(CopyDirection::kToDevice), kBytes);
}

TEST_F(CudaDevice, TheDestructorDoesWhatWasEnqueued) {
  const Buffer from = on_host(21);
  const Buffer there = on_device();
  const Buffer back = on_host(0);
  {
    const auto stream = gpu_->make_stream("s");
    stream->copy(there.data(), from.data(), kBytes, CopyDirection::kToDevice);
    stream->copy(back.data(), there.data(), kBytes, CopyDirection::kToHost);
  }
  EXPECT_TRUE(counts_from(back, 21));
}

TEST_F(CudaDevice, TheRatesOfTheLinkAreMeasured) {
  const LinkRates rates = measure_link_rates(*gpu_);
  EXPECT_GT(rates.to_device, 1e8);
  EXPECT_GT(rates.to_host, 1e8);
  RecordProperty("to_device", std::to_string(rates.to_device));
  std::printf("link: %.1f GB/s to the device, %.1f GB/s to the host\n", rates.to_device * 1e-9,
              rates.to_host * 1e-9);
}

}  // namespace
}  // namespace hetmem
