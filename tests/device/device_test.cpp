#include "device/device.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "device/thread_pool.h"

namespace hetmem {
namespace {

std::string error_of(const std::string& device) {
  ThreadPool pool(1);
  try {
    make_device(parse_device(device), pool);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kBadInput);
    return error.what();
  }
  return "";
}

TEST(Device, NamesAreReadAndWritten) {
  EXPECT_EQ(parse_device("cpu"), DeviceId{});
  EXPECT_EQ(parse_device("cuda"), (DeviceId{DeviceKind::kCuda, 0}));
  EXPECT_EQ(parse_device("cuda:12"), (DeviceId{DeviceKind::kCuda, 12}));
  EXPECT_EQ(to_string(parse_device("cuda:12")), "cuda:12");
  EXPECT_EQ(to_string(DeviceId{}), "cpu");
  for (const char* wrong :
       {"", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:1x", "CPU", "cuda:99999"}) {
    EXPECT_NE(error_of(wrong).find("cuda:N"), std::string::npos) << wrong;
  }
}

TEST(Device, AutoIsTheFirstGpuElseTheProcessor) {
  const int gpu = find_gpus().first_usable();
  const DeviceId expected = gpu < 0 ? DeviceId{} : DeviceId{DeviceKind::kCuda, gpu};
  EXPECT_EQ(parse_device("auto"), expected);
  GpuList list;
  EXPECT_EQ(list.first_usable(), -1);
  list.gpus = {{"old", 1, "too old"}, {"new", 1, ""}};
  EXPECT_EQ(list.first_usable(), 1);
}

TEST(Device, OneThatIsNotThereIsRefusedWithWhatIs) {
  const std::string message = error_of("cuda:77");
  EXPECT_NE(message.find("cuda:77"), std::string::npos) << message;
  EXPECT_NE(message.find("--device cpu"), std::string::npos) << message;
  if (find_gpus().gpus.empty()) {
    EXPECT_FALSE(find_gpus().reason.empty());
    EXPECT_NE(message.find(find_gpus().reason), std::string::npos) << message;
  }
}

TEST(Device, TheProcessorHasOneMemoryAndQueuesOfItsOwn) {
  ThreadPool pool(1);
  const auto cpu = make_device({}, pool);
  EXPECT_EQ(cpu->id(), DeviceId{});
  EXPECT_EQ(&cpu->memory(), &cpu->host_memory());
  EXPECT_EQ(cpu->free_memory(), -1);
  const auto stream = cpu->make_stream("compute");
  EXPECT_EQ(stream->kind(), DeviceKind::kCpu);
  EXPECT_EQ(stream->space(), MemorySpace::kDevice);
}

}  // namespace
}  // namespace hetmem
