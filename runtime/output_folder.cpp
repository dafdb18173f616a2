#include "runtime/output_folder.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <ctime>
#include <exception>
#include <utility>

#include "core/error.h"
#include "io/file.h"
#include "io/manifest.h"
#include "runtime/checkpoint.h"
#include "runtime/tensorboard_log.h"

namespace hetmem {
namespace {

namespace fs = std::filesystem;

// Another one where a run of the same second has it.
std::string default_out() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  localtime_r(&now, &parts);
  char text[32];
  std::strftime(text, sizeof(text), "%Y%m%d-%H%M%S", &parts);
  const std::string first = std::string("runs/") + text;
  std::string out = first;
  std::error_code code;
  for (int i = 2; fs::exists(out, code); ++i) out = first + "-" + std::to_string(i);
  return out;
}

// The files of a run, each written at once by write_text_file().
constexpr std::array kRunFiles{"config.yaml", "plan.json", "access_trace.json", "metrics.jsonl",
                               "report.html"};

bool is_run_file(const std::string& name) {
  return std::any_of(kRunFiles.begin(), kRunFiles.end(), [&](const char* file) {
    return name == file || name == unfinished_path(file);
  });
}

fs::file_type type_of(const fs::path& path) {
  std::error_code code;
  return fs::symlink_status(path, code).type();
}

std::vector<fs::path> entries_of(const fs::path& folder) {
  std::vector<fs::path> paths;
  std::error_code code;
  for (const auto& entry : fs::directory_iterator(folder, code)) paths.push_back(entry.path());
  if (!code) return paths;
  throw Error(ErrorKind::kStorage, "cannot look into " + folder.string() + ": " + code.message());
}

[[noreturn]] void refuse_to_remove(const fs::path& path, const std::string& because) {
  throw Error(ErrorKind::kBadInput,
              "--overwrite-output-dir would remove " + path.string() + ", which " + because);
}

// Names do not say who wrote a folder; its manifest does.
void require_written_by_run(const fs::path& folder) {
  constexpr const char* kForeign = "no run has written; move it away or choose another --out";
  if (type_of(folder) != fs::file_type::directory) refuse_to_remove(folder, kForeign);
  const std::string foreign = unlisted_entry(folder.string());
  if (!foreign.empty()) refuse_to_remove(folder / foreign, kForeign);
}

// What runs wrote into `folder`: files, and folders with nothing else in them. Half-written folders
// are AtomicDirectory's to remove. Throws Error (kBadInput) where a folder has something else.
std::vector<fs::path> written_by_runs(const fs::path& folder) {
  std::vector<fs::path> paths;
  for (const fs::path& path : entries_of(folder)) {
    const std::string name = path.filename().string();
    const bool is_folder = type_of(path) == fs::file_type::directory;
    if (is_run_file(name) || name == "final" || is_checkpoint_name(name)) {
      if (is_folder || !is_run_file(name)) require_written_by_run(path);
      paths.push_back(path);
    } else if (name == "tensorboard" && is_folder) {
      for (const fs::path& event : entries_of(path)) {
        if (is_event_file(event)) paths.push_back(event);
      }
    }
  }
  return paths;
}

fs::path topmost_missing(const fs::path& path) {
  std::error_code code;
  fs::path missing = path.lexically_normal();
  if (!missing.has_filename()) missing = missing.parent_path();
  while (missing.has_relative_path() && !fs::exists(missing.parent_path(), code)) {
    missing = missing.parent_path();
  }
  return missing;
}

}  // namespace

bool is_inside(const fs::path& path, const fs::path& folder) {
  std::error_code code;
  const fs::path inner = fs::weakly_canonical(path, code);
  const fs::path outer = fs::weakly_canonical(folder, code);
  return std::mismatch(outer.begin(), outer.end(), inner.begin(), inner.end()).first == outer.end();
}

void require_writable(const std::string& folder, const std::string& what) {
  if (::access(folder.c_str(), W_OK | X_OK) == 0) return;
  throw Error(ErrorKind::kBadInput,
              what + ": the folder " + folder + " does not exist or cannot be written to");
}

RunMark mark_of_run(const std::string& folder) {
  struct stat status {};
  if (::stat((folder + "/config.yaml").c_str(), &status) != 0) return {};
  constexpr int64_t kNanoseconds = 1'000'000'000;
  return {status.st_dev, status.st_ino,
          status.st_mtim.tv_sec * kNanoseconds + status.st_mtim.tv_nsec};
}

void require_run(const std::string& folder, const RunMark& mark) {
  std::error_code code;
  if (!fs::exists(folder, code) || fs::is_empty(folder, code)) return;
  if (mark_of_run(folder) == mark) return;
  throw Error(
      ErrorKind::kBadInput,
      "--out " + folder +
          " is no longer what this run wrote: its config.yaml is another one, of a run that "
          "has written there since; save a checkpoint elsewhere, and go on from it with "
          "another --out");
}

OutputFolder::OutputFolder(const TrainConfig& config, bool resuming, OutputLock& lock)
    : name_(config.out.empty() ? default_out() : given_path(config, config.out)),
      path_(absolute_path(config.out.empty() ? name_ : config.out)) {
  std::error_code code;
  const bool exists = fs::exists(path_, code);
  if (exists && !fs::is_directory(path_, code)) {
    throw Error(ErrorKind::kBadInput, "--out " + name_ + " is not a folder");
  }
  if (exists && !fs::is_empty(path_, code) && !resuming && !config.overwrite_output_dir) {
    throw Error(ErrorKind::kBadInput,
                "--out " + name_ +
                    " is not empty; choose another folder, resume from it, or give "
                    "--overwrite-output-dir");
  }
  if (exists && config.overwrite_output_dir && !resuming) find_old_run(config);
  if (!exists) created_ = topmost_missing(path_);
  try {
    make_folders(path_);
  } catch (const Error& error) {
    throw Error(error.kind(), std::string("--out: ") + error.what());
  }
  if (!lock.held()) lock = OutputLock(path_);
  require_writable(path_, "--out " + name_);
}

// Others may have begun to use a folder above it, or the folder itself.
OutputFolder::~OutputFolder() {
  if (created_.empty() || kept_) return;
  std::error_code code;
  try {
    old_run_ = written_by_runs(path_);
    remove_old_run();
  } catch (const std::exception&) {  // the error that ended the run is on its way
  }
  fs::path folder = fs::path(path_).lexically_normal();
  if (!folder.has_filename()) folder = folder.parent_path();
  while (fs::remove(folder, code) && folder != created_) folder = folder.parent_path();
}

void OutputFolder::remove_old_run() {
  for (const fs::path& path : std::exchange(old_run_, {})) {
    if (type_of(path) == fs::file_type::directory) {
      require_written_by_run(path);  // it may have come to hold something since
      AtomicDirectory::remove(path.string());
      continue;
    }
    std::error_code code;
    const bool in_folder = is_event_file(path);
    fs::remove(path, code);
    if (in_folder) fs::remove(path.parent_path(), code);  // with the last one
  }
}

void OutputFolder::remove_unfinished_files() {
  for (const char* file : kRunFiles) {
    std::error_code code;
    fs::remove(unfinished_path(path_ + "/" + file), code);
  }
}

void OutputFolder::find_old_run(const TrainConfig& config) {
  std::vector<std::string> needed = config.data;
  needed.insert(needed.end(), config.eval_data.begin(), config.eval_data.end());
  needed.push_back(config.model);
  old_run_ = written_by_runs(path_);
  const bool stepped = type_of(fs::path(path_) / "metrics.jsonl") != fs::file_type::not_found;
  for (const fs::path& removed : old_run_) {
    // It may be the one that somebody has written for this run.
    if (removed.filename() == "config.yaml" && !stepped) {
      refuse_to_remove(removed, "is beside no metrics.jsonl; move it away or choose another --out");
    }
    for (const std::string& path : needed) {
      if (is_inside(path, removed)) refuse_to_remove(path, "this run reads; choose another --out");
    }
  }
}

}  // namespace hetmem
