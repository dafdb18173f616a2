#include "runtime/output_folder.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <ctime>

#include "core/error.h"
#include "io/file.h"

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
  for (int i = 2; fs::exists(out); ++i) out = first + "-" + std::to_string(i);
  return out;
}

// The files of a run, each written at once by write_text_file().
constexpr std::array kRunFiles{"config.yaml", "plan.json", "access_trace.json", "metrics.jsonl",
                               "report.html"};

// What a run writes into its folder, left-overs of what was cut off included.
bool is_written_by_runs(const std::string& name) {
  const bool is_file = std::any_of(kRunFiles.begin(), kRunFiles.end(), [&](const char* file) {
    return name == file || name == unfinished_path(file);
  });
  return is_file || name == "tensorboard" || name == "final" || name.starts_with("checkpoint-") ||
         name.starts_with("final.tmp-") || name.starts_with("final.old-");
}

fs::path topmost_missing(const fs::path& path) {
  std::error_code code;
  fs::path missing = fs::absolute(path).lexically_normal();
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

OutputFolder::OutputFolder(const TrainConfig& config, bool resuming)
    : path_(config.out.empty() ? default_out() : config.out) {
  std::error_code code;
  const bool exists = fs::exists(path_, code);
  if (exists && !fs::is_directory(path_, code)) {
    throw Error(ErrorKind::kBadInput, "--out " + path_ + " is not a folder");
  }
  if (exists && !fs::is_empty(path_, code) && !resuming && !config.overwrite_output_dir) {
    throw Error(ErrorKind::kBadInput,
                "--out " + path_ +
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
  require_writable(path_, "--out " + path_);
}

OutputFolder::~OutputFolder() {
  std::error_code code;
  if (!created_.empty() && !kept_) fs::remove_all(created_, code);
}

void OutputFolder::remove_old_run() {
  std::error_code code;
  for (const fs::path& entry : old_run_) fs::remove_all(entry, code);
  old_run_.clear();
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
  std::error_code code;
  for (const auto& entry : fs::directory_iterator(path_, code)) {
    if (!is_written_by_runs(entry.path().filename().string())) continue;
    for (const std::string& path : needed) {
      if (!is_inside(path, entry.path())) continue;
      throw Error(ErrorKind::kBadInput, "--overwrite-output-dir would remove " + path +
                                            ", which this run reads; choose another --out");
    }
    old_run_.push_back(entry.path());
  }
}

}  // namespace hetmem
