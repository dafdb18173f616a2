#include "device/stream.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <vector>

#include "device/thread_pool.h"

namespace hetmem {
namespace {

TEST(ThreadPool, EveryItemRunsOnce) {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    for (const int64_t count : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> runs(static_cast<size_t>(count));
      pool.parallel_for(count, [&](int64_t i) { ++runs[static_cast<size_t>(i)]; });
      for (const auto& times : runs) EXPECT_EQ(times, 1);
    }
  }
}

TEST(ThreadPool, BlocksCoverTheRange) {
  ThreadPool pool(3);
  std::vector<std::atomic<int>> seen(1001);
  pool.parallel_blocks(1001, 100, [&](int64_t begin, int64_t end) {
    EXPECT_LE(end - begin, 100);
    for (int64_t i = begin; i < end; ++i) ++seen[static_cast<size_t>(i)];
  });
  for (const auto& times : seen) EXPECT_EQ(times, 1);
}

TEST(ThreadPool, TheFirstExceptionReachesTheCaller) {
  ThreadPool pool(4);
  EXPECT_THROW(pool.parallel_for(100,
                                 [](int64_t i) {
                                   if (i == 57) throw std::runtime_error("57");
                                 }),
               std::runtime_error);
  std::atomic<int> runs = 0;
  pool.parallel_for(10, [&](int64_t) { ++runs; });
  EXPECT_EQ(runs, 10);
}

// The caller is done with its item long before the worker: it sleeps, and is woken.
TEST(ThreadPool, AnItemThatTakesLongIsWaitedFor) {
  ThreadPool pool(2);
  const std::thread::id caller = std::this_thread::get_id();
  for (int round = 0; round < 50; ++round) {
    std::atomic<int> begun = 0;
    int64_t sum = 0;
    pool.parallel_for(2, [&](int64_t) {
      ++begun;
      while (begun < 2) std::this_thread::yield();  // each thread has one
      if (std::this_thread::get_id() == caller) return;
      volatile int64_t terms = 300'000;
      for (int64_t i = 0; i < terms; ++i) sum += i;
    });
    ASSERT_EQ(sum, int64_t{300'000} * 299'999 / 2);
  }
}

TEST(ThreadPool, SeveralCallersAreServed) {
  ThreadPool pool(2);
  std::atomic<int64_t> sum = 0;
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&] {
      for (int round = 0; round < 50; ++round) pool.parallel_for(20, [&](int64_t i) { sum += i; });
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(sum, int64_t{4} * 50 * 190);
}

TEST(Stream, RunsInOrderWithoutTheCaller) {
  ThreadPool pool(1);
  CpuStream stream("s", pool);
  std::promise<void> gate;
  std::vector<int> order;
  stream.enqueue([future = gate.get_future().share()](ThreadPool&) { future.wait(); });
  for (int i = 0; i < 10; ++i) stream.enqueue([&order, i](ThreadPool&) { order.push_back(i); });
  const Event done = stream.record();
  EXPECT_FALSE(done.complete());  // the queue is held, the caller is not
  gate.set_value();
  done.synchronize();
  EXPECT_TRUE(done.complete());
  std::vector<int> expected(10);
  std::iota(expected.begin(), expected.end(), 0);
  EXPECT_EQ(order, expected);
}

TEST(Stream, WaitsForTheEventOfAnother) {
  ThreadPool pool(1);
  CpuStream producer("producer", pool);
  CpuStream consumer("consumer", pool);
  std::promise<void> gate;
  int value = 0;
  int seen = -1;
  producer.enqueue([future = gate.get_future().share()](ThreadPool&) { future.wait(); });
  producer.enqueue([&value](ThreadPool&) { value = 7; });
  consumer.wait(producer.record());
  consumer.enqueue([&](ThreadPool&) { seen = value; });
  gate.set_value();
  consumer.synchronize();
  EXPECT_EQ(seen, 7);
}

TEST(Stream, CopiesAreWorkOfTheStream) {
  ThreadPool pool(1);
  CpuStream stream("s", pool);
  std::promise<void> gate;
  std::vector<int> from{1, 2, 3};
  std::vector<int> to(3, 0);
  stream.enqueue([future = gate.get_future().share()](ThreadPool&) { future.wait(); });
  stream.copy(to.data(), from.data(), 12, CopyDirection::kWithin);
  from[0] = 10;  // the copy has not happened yet: it must see this
  gate.set_value();
  stream.synchronize();
  EXPECT_EQ(to, (std::vector<int>{10, 2, 3}));
}

TEST(Stream, AnErrorStopsItAndIsRethrown) {
  ThreadPool pool(1);
  CpuStream stream("s", pool);
  bool ran = false;
  stream.enqueue([](ThreadPool&) { throw std::runtime_error("broken"); });
  stream.enqueue([&ran](ThreadPool&) { ran = true; });
  EXPECT_THROW(stream.synchronize(), std::runtime_error);
  EXPECT_FALSE(ran);
}

TEST(Stream, KnowsItsSpace) {
  ThreadPool pool(1);
  EXPECT_EQ(CpuStream("compute", pool).space(), MemorySpace::kDevice);
  EXPECT_EQ(CpuStream("optimizer", pool, MemorySpace::kHost).space(), MemorySpace::kHost);
}

TEST(Stream, CountsTheBytesThatItMovedByDirection) {
  ThreadPool pool(1);
  CpuStream stream("s", pool);
  std::promise<void> gate;
  std::vector<char> from(100, 'x');
  std::vector<char> to(100, ' ');
  stream.copy(to.data(), from.data(), 60, CopyDirection::kToDevice);
  stream.synchronize();
  EXPECT_EQ(stream.copied_bytes(CopyDirection::kToDevice), 60);
  stream.enqueue([future = gate.get_future().share()](ThreadPool&) { future.wait(); });
  stream.copy(to.data(), from.data(), 100, CopyDirection::kToDevice);
  stream.copy(to.data(), from.data(), 7, CopyDirection::kToHost);
  EXPECT_EQ(stream.copied_bytes(CopyDirection::kToDevice), 60);  // enqueued is not moved
  gate.set_value();
  stream.synchronize();
  EXPECT_EQ(stream.copied_bytes(CopyDirection::kToDevice), 160);
  EXPECT_EQ(stream.copied_bytes(CopyDirection::kToHost), 7);
  EXPECT_EQ(stream.copied_bytes(CopyDirection::kWithin), 0);
}

TEST(Stream, AfterAnErrorEventsCompleteAndNothingIsMoved) {
  ThreadPool pool(1);
  CpuStream stream("s", pool);
  CpuStream other("other", pool);
  char byte = 'a';
  const char source = 'b';
  stream.enqueue([](ThreadPool&) { throw std::runtime_error("broken"); });
  stream.copy(&byte, &source, 1, CopyDirection::kWithin);
  const Event event = stream.record();
  other.wait(event);
  other.synchronize();
  EXPECT_TRUE(event.complete());
  EXPECT_THROW(stream.synchronize(), std::runtime_error);
  EXPECT_EQ(byte, 'a');
  EXPECT_EQ(stream.copied_bytes(CopyDirection::kWithin), 0);
}

TEST(Stream, WaitedSecondsAreThoseOfEventsThatWereNotComplete) {
  ThreadPool pool(1);
  CpuStream producer("producer", pool);
  CpuStream consumer("consumer", pool);
  const Event done = producer.record();
  done.synchronize();
  consumer.wait(done);
  consumer.wait(Event());
  consumer.synchronize();
  EXPECT_EQ(consumer.waited_seconds(), 0);
  // The consumer is at the event when the gate opens, or it is not, as threads go: until it is.
  while (consumer.waited_seconds() == 0) {
    std::promise<void> gate;
    std::promise<void> reached;
    producer.enqueue([&](ThreadPool&) { gate.get_future().wait(); });
    consumer.enqueue([&](ThreadPool&) { reached.set_value(); });
    consumer.wait(producer.record());
    reached.get_future().wait();
    for (int i = 0; i < 100; ++i) std::this_thread::yield();
    gate.set_value();
    consumer.synchronize();
  }
  EXPECT_EQ(producer.waited_seconds(), 0);
}

// An event as a device of another kind would record it.
class ForeignEvent final : public Event::State {
 public:
  bool complete() const override { return done_.wait_for(std::chrono::seconds(0)) == ready(); }
  void synchronize() const override { done_.wait(); }
  void set() { promise_.set_value(); }

 private:
  static std::future_status ready() { return std::future_status::ready; }
  std::promise<void> promise_;
  std::shared_future<void> done_{promise_.get_future().share()};
};

TEST(Stream, WaitsForEventsOfOtherKindsOfStreams) {
  ThreadPool pool(1);
  CpuStream stream("s", pool);
  auto foreign = std::make_shared<ForeignEvent>();
  const Event event{foreign};
  bool ran = false;
  stream.wait(event);
  stream.enqueue([&ran](ThreadPool&) { ran = true; });
  const Event after = stream.record();
  EXPECT_FALSE(event.complete());
  EXPECT_FALSE(after.complete());
  foreign->set();
  event.synchronize();
  after.synchronize();
  EXPECT_TRUE(ran);
}

TEST(Stream, ATimerTakesTheWorkBetweenItsEnds) {
  ThreadPool pool(1);
  CpuStream stream("s", pool);
  double none = -1;
  double some = -1;
  std::chrono::duration<double> inside{};
  stream.start_timer();
  stream.stop_timer(none);
  stream.start_timer();
  stream.enqueue([&inside](ThreadPool&) {
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < 1000; ++i) std::this_thread::yield();
    inside = std::chrono::steady_clock::now() - begin;
  });
  stream.stop_timer(some);
  stream.synchronize();
  EXPECT_GE(none, 0);
  EXPECT_GE(some, inside.count());
}

TEST(Stream, TheDestructorWaitsForEventsThatStillComplete) {
  ThreadPool pool(1);
  std::promise<void> gate;
  bool ran = false;
  CpuStream producer("producer", pool);
  std::thread opener;
  {
    CpuStream consumer("consumer", pool);
    producer.enqueue([future = gate.get_future().share()](ThreadPool&) { future.wait(); });
    consumer.wait(producer.record());
    consumer.enqueue([&ran](ThreadPool&) { ran = true; });
    opener = std::thread([&gate] { gate.set_value(); });
  }
  EXPECT_TRUE(ran);
  opener.join();
}

}  // namespace
}  // namespace hetmem
