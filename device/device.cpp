#include "device/device.h"

#include <charconv>

#include "core/error.h"

namespace hetmem {
namespace {

class CpuDevice final : public Device {
 public:
  explicit CpuDevice(ThreadPool& pool) : pool_(pool) {}
  DeviceId id() const override { return {}; }
  std::unique_ptr<Stream> make_stream(const std::string& name) override {
    return std::make_unique<CpuStream>(name, pool_);
  }
  Memory& memory() override { return system_memory(); }
  Memory& host_memory() override { return system_memory(); }
  int64_t free_memory() const override { return -1; }

 private:
  ThreadPool& pool_;
};

std::string list_of(const GpuList& found) {
  if (found.gpus.empty()) return "there is no GPU: " + found.reason;
  std::string text = "there is";
  for (size_t i = 0; i < found.gpus.size(); ++i) {
    const Gpu& gpu = found.gpus[i];
    text += std::string(i == 0 ? " " : ", ") + "cuda:" + std::to_string(i) + " (" + gpu.name +
            (gpu.unusable.empty() ? ")" : "; " + gpu.unusable + ")");
  }
  return text;
}

void require_gpu(int index) {
  const GpuList& found = find_gpus();
  const bool there = index < static_cast<int>(found.gpus.size());
  if (there && found.gpus[static_cast<size_t>(index)].unusable.empty()) return;
  throw Error(ErrorKind::kBadInput, "--device " + to_string({DeviceKind::kCuda, index}) +
                                        " cannot be used: " + list_of(found) +
                                        "; give --device cpu" +
                                        (found.first_usable() < 0 ? "" : " or another GPU"));
}

}  // namespace

std::string to_string(const DeviceId& id) {
  return id.kind == DeviceKind::kCpu ? "cpu" : "cuda:" + std::to_string(id.index);
}

DeviceId parse_device(const std::string& text) {
  constexpr int kMost = 1024;
  if (text == "cpu") return {};
  if (text == "cuda") return {DeviceKind::kCuda, 0};
  if (text == "auto") {
    const int gpu = find_gpus().first_usable();
    return gpu < 0 ? DeviceId{} : DeviceId{DeviceKind::kCuda, gpu};
  }
  const std::string prefix = "cuda:";
  DeviceId id{DeviceKind::kCuda, 0};
  const char* end = text.data() + text.size();
  if (text.size() > prefix.size() && text.compare(0, prefix.size(), prefix) == 0) {
    const auto [parsed, code] = std::from_chars(text.data() + prefix.size(), end, id.index);
    if (code == std::errc() && parsed == end && id.index >= 0 && id.index < kMost) return id;
  }
  throw Error(ErrorKind::kBadInput,
              "--device " + text + " is none of auto, cpu, cuda and cuda:N (the GPU of a number)");
}

std::unique_ptr<Device> make_device(const DeviceId& id, ThreadPool& pool) {
  if (id.kind == DeviceKind::kCpu) return std::make_unique<CpuDevice>(pool);
  require_gpu(id.index);
  return make_gpu(id.index);
}

int GpuList::first_usable() const {
  for (size_t i = 0; i < gpus.size(); ++i) {
    if (gpus[i].unusable.empty()) return static_cast<int>(i);
  }
  return -1;
}

const GpuList& find_gpus() {
  static const GpuList list = list_gpus();
  return list;
}

}  // namespace hetmem
