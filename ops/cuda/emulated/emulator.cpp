#include "ops/cuda/emulated/emulator.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <exception>
#include <memory>
#include <utility>
#include <vector>

#include "core/error.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

namespace hetmem::ops::cuda_emulated::emulator {
namespace {

constexpr size_t kStackBytes = size_t{128} * 1024;
constexpr unsigned kWarpLanes = 32;

// Where a thread of the block stands.
enum class Standing { kReady, kAtBlockBarrier, kAtWarpBarrier, kDone };

// Tells the address sanitizer which stack runs; nothing without it.
struct StackSwitch {
#ifdef __SANITIZE_ADDRESS__
  void* fake = nullptr;
  void leave(const void* bottom, size_t bytes, bool for_good = false) {
    __sanitizer_start_switch_fiber(for_good ? nullptr : &fake, bottom, bytes);
  }
  void arrive(const void** bottom, size_t* bytes) {
    __sanitizer_finish_switch_fiber(fake, bottom, bytes);
  }
#else
  void leave(const void*, size_t, bool = false) {}
  void arrive(const void**, size_t*) {}
#endif
};

// Saves where the running stack is and goes on where another one was: what a call preserves is kept
// on the stack itself. (swapcontext() does the same with two system calls, thirty times as slowly.)
[[gnu::naked]] void switch_stack(void** /*from*/, void* /*to*/) {
  asm("pushq %rbp\n\t"
      "pushq %rbx\n\t"
      "pushq %r12\n\t"
      "pushq %r13\n\t"
      "pushq %r14\n\t"
      "pushq %r15\n\t"
      "movq %rsp, (%rdi)\n\t"
      "movq %rsi, %rsp\n\t"
      "popq %r15\n\t"
      "popq %r14\n\t"
      "popq %r13\n\t"
      "popq %r12\n\t"
      "popq %rbx\n\t"
      "popq %rbp\n\t"
      "ret");
}

// A stack on which switch_stack() enters a function that does not return.
void* fresh_stack(std::byte* stack, void (*entry)()) {
  constexpr size_t kSaved = 6;
  auto* at = reinterpret_cast<uintptr_t*>(stack + kStackBytes) - 2;  // 8 bytes off 16 on entry
  *at = reinterpret_cast<uintptr_t>(entry);
  at[1] = 0;
  at -= kSaved;
  std::fill_n(at, kSaved, uintptr_t{0});
  return at;
}

struct Fiber {
  Fiber() : stack(new std::byte[kStackBytes]) {}
  std::unique_ptr<std::byte[]> stack;
  void* at = nullptr;  // where its stack is, while it does not run
  StackSwitch stack_switch;
  Place place;
  Standing standing = Standing::kDone;
  int exchanges = 0;  // which of the two slots of a warp the next exchange uses
};

class Block;
thread_local Block* current_block = nullptr;
thread_local Order order = Order::kForward;

// The fibers of one emulating thread, used again by block after block.
class Block {
 public:
  void run(dim3 grid, dim3 block, dim3 index, const std::function<void()>& kernel);

  Fiber& running() { return *running_; }
  unsigned running_index() const { return running_index_; }
  void* shared() { return shared_.get(); }
  void set_shared(int64_t bytes) {
    shared_bytes_ = static_cast<size_t>(bytes);
    shared_ = std::make_unique<std::byte[]>(shared_bytes_);
  }
  void pause(Standing standing);
  // The slots of the warp of the running thread, for its next exchange.
  std::array<uint64_t, kWarpLanes>& next_slots();

 private:
  struct Warp {
    std::array<std::array<uint64_t, kWarpLanes>, 2> slots{};
  };

  static void enter();
  void resume(unsigned index);
  bool release();
  bool release_warp(unsigned first);
  unsigned count() const { return static_cast<unsigned>(fibers_in_use_); }

  std::vector<Fiber> fibers_;
  std::vector<Warp> warps_;
  std::unique_ptr<std::byte[]> shared_;
  size_t shared_bytes_ = 0;
  size_t fibers_in_use_ = 0;
  void* scheduler_ = nullptr;
  StackSwitch scheduler_switch_;
  const void* scheduler_stack_ = nullptr;
  size_t scheduler_stack_bytes_ = 0;
  Fiber* running_ = nullptr;
  unsigned running_index_ = 0;
  const std::function<void()>* kernel_ = nullptr;
};

void Block::enter() {
  Block& block = *current_block;
  Fiber& fiber = *block.running_;
  fiber.stack_switch.arrive(&block.scheduler_stack_, &block.scheduler_stack_bytes_);
  (*block.kernel_)();
  fiber.standing = Standing::kDone;
  fiber.stack_switch.leave(block.scheduler_stack_, block.scheduler_stack_bytes_, true);
  switch_stack(&fiber.at, block.scheduler_);
}

void Block::pause(Standing standing) {
  Fiber& fiber = *running_;
  fiber.standing = standing;
  fiber.stack_switch.leave(scheduler_stack_, scheduler_stack_bytes_);
  switch_stack(&fiber.at, scheduler_);
  fiber.stack_switch.arrive(&scheduler_stack_, &scheduler_stack_bytes_);
}

void Block::resume(unsigned index) {
  running_index_ = index;
  running_ = &fibers_[index];
  scheduler_switch_.leave(running_->stack.get(), kStackBytes);
  switch_stack(&scheduler_, running_->at);
  const void* bottom = nullptr;
  size_t bytes = 0;
  scheduler_switch_.arrive(&bottom, &bytes);
}

std::array<uint64_t, kWarpLanes>& Block::next_slots() {
  return warps_[running_index_ / kWarpLanes].slots[static_cast<size_t>(running_->exchanges++ % 2)];
}

bool Block::release_warp(unsigned first) {
  const unsigned end = std::min(first + kWarpLanes, count());
  unsigned waiting = 0;
  for (unsigned i = first; i < end; ++i) {
    waiting += fibers_[i].standing == Standing::kAtWarpBarrier ? 1U : 0U;
  }
  if (waiting < kWarpLanes) return false;
  for (unsigned i = first; i < end; ++i) fibers_[i].standing = Standing::kReady;
  return true;
}

// Lets those go on that wait for nobody any more.
bool Block::release() {
  bool any = false;
  for (unsigned first = 0; first < count(); first += kWarpLanes) any |= release_warp(first);
  if (any) return true;
  for (unsigned i = 0; i < count(); ++i) {
    if (fibers_[i].standing != Standing::kAtBlockBarrier) return false;
  }
  for (unsigned i = 0; i < count(); ++i) fibers_[i].standing = Standing::kReady;
  return true;
}

void Block::run(dim3 grid, dim3 block, dim3 index, const std::function<void()>& kernel) {
  kernel_ = &kernel;
  fibers_in_use_ = static_cast<size_t>(block.x) * block.y * block.z;
  if (fibers_.size() < fibers_in_use_) fibers_.resize(fibers_in_use_);
  warps_.resize((fibers_in_use_ + kWarpLanes - 1) / kWarpLanes);
  std::memset(shared_.get(), 0xff, shared_bytes_);
  for (unsigned i = 0; i < count(); ++i) {
    Fiber& fiber = fibers_[i];
    fiber.place = {grid, block, index,
                   dim3(i % block.x, i / block.x % block.y, i / block.x / block.y)};
    fiber.standing = Standing::kReady;
    fiber.exchanges = 0;
    fiber.stack_switch = {};
    fiber.at = fresh_stack(fiber.stack.get(), &Block::enter);
  }
  for (;;) {
    bool all_done = true;
    for (unsigned step = 0; step < count(); ++step) {
      const unsigned i = order == Order::kForward ? step : count() - 1 - step;
      if (fibers_[i].standing == Standing::kReady) resume(i);
      all_done &= fibers_[i].standing == Standing::kDone;
    }
    if (all_done) return;
    if (!release()) {
      throw Error(ErrorKind::kInternal,
                  "a barrier of a kernel is not reached by every thread of its block or warp");
    }
  }
}

}  // namespace

void set_order(Order wanted) { order = wanted; }

void run(dim3 grid, dim3 block, int64_t shared, const std::function<void()>& kernel) {
  HETMEM_ASSERT(current_block == nullptr);
  static thread_local Block fibers;
  fibers.set_shared(shared);
  current_block = &fibers;
  const auto blocks = static_cast<uint64_t>(grid.x) * grid.y * grid.z;
  try {
    for (uint64_t step = 0; step < blocks; ++step) {
      const uint64_t i = order == Order::kForward ? step : blocks - 1 - step;
      const dim3 index(static_cast<unsigned>(i % grid.x),
                       static_cast<unsigned>(i / grid.x % grid.y),
                       static_cast<unsigned>(i / grid.x / grid.y));
      fibers.run(grid, block, index, kernel);
    }
  } catch (...) {
    current_block = nullptr;
    throw;
  }
  current_block = nullptr;
}

void* shared_memory() { return current_block->shared(); }
const Place& place() { return current_block->running().place; }
void sync_block() { current_block->pause(Standing::kAtBlockBarrier); }
unsigned lane() { return current_block->running_index() % kWarpLanes; }

uint64_t exchange(uint64_t bits, unsigned source) {
  auto& slots = current_block->next_slots();
  slots[lane()] = bits;
  current_block->pause(Standing::kAtWarpBarrier);
  return slots[source % kWarpLanes];
}

unsigned ballot(bool condition) {
  auto& slots = current_block->next_slots();
  slots[lane()] = condition ? 1 : 0;
  current_block->pause(Standing::kAtWarpBarrier);
  unsigned bits = 0;
  for (unsigned i = 0; i < kWarpLanes; ++i) bits |= static_cast<unsigned>(slots[i]) << i;
  return bits;
}

}  // namespace hetmem::ops::cuda_emulated::emulator
