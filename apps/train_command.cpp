#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <utility>

#include "apps/commands.h"
#include "core/byte_size.h"
#include "device/tier.h"
#include "runtime/training_run.h"

namespace hetmem::apps {
namespace {

std::atomic<bool> stop_requested{false};
std::atomic<int> signal_seen{0};
std::atomic<bool> termination_seen{false};  // after a hang-up

// The first signal lets the step under way finish; the second ends the process at once. A session
// that is closed is one signal, though it sends several: the kernel and the shell each hang up, and
// who ends its processes sends SIGTERM with that, before or after. Threads may take two at once.
extern "C" void on_signal(int number) {
  int first = 0;
  if (signal_seen.compare_exchange_strong(first, number)) {
    stop_requested.store(true, std::memory_order_relaxed);
    return;
  }
  if (number == SIGHUP) return;
  if (number == SIGTERM && first == SIGHUP && !termination_seen.exchange(true)) return;
  _exit(128 + number);
}

void catch_signals() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  struct sigaction before {};
  sigaction(SIGHUP, nullptr, &before);
  if (before.sa_handler != SIG_IGN) sigaction(SIGHUP, &action, nullptr);  // else that of nohup
}

// What a run prints stands beside what it writes: where the reader has left, or the disk is full,
// printing ends and the run does not.
class Output {
 public:
  template <typename... Args>
  void print(fmt::format_string<Args...> format, Args&&... args) {
    const std::string text = fmt::format(format, std::forward<Args>(args)...);
    if (lost_) return;
    if (std::fwrite(text.data(), 1, text.size(), stdout) == text.size() &&
        std::fflush(stdout) == 0) {
      return;
    }
    lost_ = true;
    print_note(
        fmt::format("nothing more is printed: cannot write to the standard output: {}; the "
                    "run goes on",
                    std::strerror(errno)));
  }

 private:
  bool lost_ = false;
};

bool wants_json(const TrainConfig& config) {
  if (config.log_format == LogFormat::kAuto) return isatty(STDOUT_FILENO) == 0;
  return config.log_format == LogFormat::kJson;
}

std::string duration(double seconds) {
  const int64_t whole = std::llround(seconds);
  if (whole >= 3600) return fmt::format("{}h{:02}m", whole / 3600, whole / 60 % 60);
  return fmt::format("{}m{:02}s", whole / 60, whole % 60);
}

class Printer {
 public:
  Printer(Output& output, bool json)
      : output_(output), json_(json), terminal_(isatty(STDOUT_FILENO) != 0) {}

  void operator()(const RunProgress& progress) {
    if (json_) {
      output_.print("{}\n", progress.metrics_line);
    } else if (progress.report == nullptr) {
      output_.print("{}eval loss {:.4f}\n", terminal_ ? "\r\033[K" : "", progress.eval_loss);
    } else {
      print_step(*progress.report, progress.total_steps);
    }
  }

 private:
  void print_step(const StepReport& report, int64_t total) {
    // Time left from a running mean that forgets.
    mean_ = mean_ == 0 ? report.seconds : 0.8 * mean_ + 0.2 * report.seconds;
    const double left = mean_ * static_cast<double>(total - report.step);
    const std::string line = fmt::format(
        "step {}/{} | loss {:.4f} | norm {:.3f} | lr {:.2e} | {:.0f} tok/s | {} | {} left",
        report.step, total, report.loss, report.grad_norm, report.learning_rate,
        static_cast<double>(report.tokens) / report.seconds, format_byte_size(report.device.peak),
        duration(left));
    if (terminal_ && report.step != total) {
      output_.print("\r\033[K{}", line);
    } else {
      output_.print("{}{}\n", terminal_ ? "\r\033[K" : "", line);
    }
  }

  Output& output_;
  bool json_;
  bool terminal_;
  double mean_ = 0;
};

void print_tier(Output& output, const char* name, const TierPlan& plan, const TierUse& use) {
  if (plan.peak == 0 && use.peak == 0) return;
  output.print("\n  {:<26}{:>14}{:>14}\n", fmt::format("{} memory", name), "planned", "measured");
  for (int kind = 0; kind < kMemoryKinds; ++kind) {
    const auto index = static_cast<size_t>(kind);
    if (plan.by_kind[index] == 0 && use.by_kind[index] == 0) continue;
    output.print("  {:<26}{:>14}{:>14}\n", "  " + readable_name(static_cast<MemoryKind>(kind)),
                 format_byte_size(plan.by_kind[index]), format_byte_size(use.by_kind[index]));
  }
  output.print("  {:<26}{:>14}{:>14}\n", "  peak", format_byte_size(plan.peak),
               format_byte_size(use.peak));
  if (use.touched > 0) {
    output.print("  {:<26}{:>14}{:>14}\n", "  pages touched", "", format_byte_size(use.touched));
  }
  output.print("  {:<26}{:>14}\n", "  budget", format_byte_size(use.budget));
}

void print_memory(Output& output, const RunResult& result) {
  print_tier(output, "device", result.plan.device, result.device);
  print_tier(output, "host", result.plan.host, result.host);
  print_tier(output, "disk", result.plan.disk, result.disk);
  output.print("\n  {:<26}{:>14}{:>14}\n", "process, resident", "",
               format_byte_size(peak_resident_bytes()));
}

void print_checkpoints(Output& output, const CheckpointUse& use) {
  if (use.written == 0) return;
  output.print(
      "\n  {} checkpoints, written beside training in {:.1f} s, for which it waited {:.2f} s\n",
      use.written, use.seconds, use.waited_seconds);
  if (use.chunks_without_room > 0) {
    output.print("  the host budget had no room for copies of {} chunks, whose steps waited\n",
                 use.chunks_without_room);
  }
}

void print_set_aside(Output& output, const std::vector<std::string>& names) {
  if (names.empty()) return;
  output.print("\n  newer checkpoints, from which this run did not go on, have other names now:\n");
  for (const std::string& name : names) output.print("  {}\n", name);
}

}  // namespace

int train(const TrainConfig& config) {
  catch_signals();
  const bool json = wants_json(config);
  Output output;
  Printer printer(output, json);
  const RunResult result = run_training(config, std::ref(printer), print_note, stop_requested);
  if (!json) {
    if (result.steps_taken > 0) print_memory(output, result);
    print_checkpoints(output, result.checkpoints);
    print_set_aside(output, result.set_aside);
    output.print("\n{}\n", result.interrupted
                               ? fmt::format("stopped after step {}; go on with --out {} "
                                             "--resume-from-checkpoint latest",
                                             result.steps, result.out)
                               : fmt::format("the model is in {}/final", result.out));
    if (result.steps > 0) output.print("the report is {}/report.html\n", result.out);
  }
  return result.interrupted ? 128 + signal_seen : 0;
}

}  // namespace hetmem::apps
