#include "runtime/tensorboard_log.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <filesystem>
#include <limits>

#include "core/error.h"

namespace hetmem {
namespace {

namespace fs = std::filesystem;

int64_t microseconds_now() {
  using std::chrono::system_clock;
  return std::chrono::duration_cast<std::chrono::microseconds>(
             system_clock::now().time_since_epoch())
      .count();
}

constexpr const char* kEventFiles = "events.out.tfevents.";

double now() { return static_cast<double>(microseconds_now()) * 1e-6; }

// TensorBoard knows event files by "tfevents" and reads those of a folder in the order of their
// names, so that the time comes first.
std::string new_file(const std::string& out) {
  const std::string folder = out + "/tensorboard";
  std::error_code code;
  fs::create_directories(folder, code);
  std::error_code unknown;
  if (code || !fs::is_directory(folder, unknown)) {
    throw Error(ErrorKind::kStorage,
                "cannot create the folder " + folder + " for --tensorboard: " + code.message());
  }
  const int64_t time = microseconds_now();
  std::array<char, 256> host{};
  if (::gethostname(host.data(), host.size() - 1) != 0) host = {'h', 'o', 's', 't'};
  return fmt::format("{}/{}{:010}.{:06}.{}.{}", folder, kEventFiles, time / 1'000'000,
                     time % 1'000'000, host.data(), ::getpid());
}

}  // namespace

bool is_event_file(const fs::path& path) {
  std::error_code code;
  return path.filename().string().starts_with(kEventFiles) && fs::is_regular_file(path, code);
}

TensorBoardLog::TensorBoardLog(const std::string& out, int64_t steps_done)
    : file_(new_file(out), now()) {
  if (steps_done > 0) file_.write_restart(now(), steps_done + 1);
}

void TensorBoardLog::step(const StepReport& report) {
  // As in metrics.jsonl, a skipped step has no loss; TensorBoard marks a NaN.
  const double loss = report.skipped ? std::numeric_limits<double>::quiet_NaN() : report.loss;
  const std::array scalars{
      Scalar{"train/loss", loss},
      Scalar{"train/grad_norm", report.grad_norm},
      Scalar{"train/learning_rate", report.learning_rate},
      Scalar{"train/tokens_per_second", static_cast<double>(report.tokens) / report.seconds},
      Scalar{"memory/device_peak_bytes", static_cast<double>(report.device.peak)},
      Scalar{"memory/host_peak_bytes", static_cast<double>(report.host.peak)},
      Scalar{"memory/disk_peak_bytes", static_cast<double>(report.disk.peak)},
  };
  file_.write_scalars(now(), report.step, scalars);
}

void TensorBoardLog::evaluation(int64_t step, double loss) {
  const std::array scalars{Scalar{"eval/loss", loss}};
  file_.write_scalars(now(), step, scalars);
}

}  // namespace hetmem
