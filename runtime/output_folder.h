// OutputFolder: the folder that a run writes (--out). It is refused where it holds something that
// is not to be replaced, made where it is not there, and removed again where it was made for a run
// that is given up. Not thread-safe.
//
//   OutputLock lock(config.out);
//   OutputFolder folder(config, /*resuming=*/false, lock);
//   folder.remove_old_run();   // what --overwrite-output-dir replaces
//   folder.keep();             // something is in it now
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "runtime/output_lock.h"
#include "runtime/train_config.h"

namespace hetmem {

// Whether a path, which need not be there, is that of a folder or below it.
bool is_inside(const std::filesystem::path& path, const std::filesystem::path& folder);
// Throws Error (kBadInput) that begins with `what`.
void require_writable(const std::string& folder, const std::string& what);

// By what a run knows the folder that it has written again: its config.yaml, which every run into
// it writes anew as it begins.
struct RunMark {
  uint64_t device = 0;
  uint64_t file = 0;
  int64_t modified = 0;  // nanoseconds
  friend bool operator==(const RunMark&, const RunMark&) = default;
};
RunMark mark_of_run(const std::string& folder);
// Throws Error (kBadInput) where the folder holds something and has another mark.
void require_run(const std::string& folder, const RunMark& mark);

class OutputFolder {
 public:
  // Throws Error (kBadInput, kStorage). `resuming`: from a checkpoint in it. `lock`: of --out where
  // that is there; else it gets the one of the folder that is made, and outlives all that writes
  // there.
  OutputFolder(const TrainConfig& config, bool resuming, OutputLock& lock);
  ~OutputFolder();
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;
  // As it was given, for whoever reads it.
  const std::string& name() const { return name_; }
  // The same place from wherever the process goes meanwhile.
  const std::string& path() const { return path_; }
  void keep() { kept_ = true; }
  // What another run left here, where --overwrite-output-dir is given. What no run has written
  // stays; where it is inside of what is to be replaced, this was refused at the start. Throws
  // Error.
  void remove_old_run();
  // Files that a run which was cut off had begun: some are not written again.
  void remove_unfinished_files();

 private:
  void find_old_run(const TrainConfig& config);

  std::string name_;
  std::string path_;
  std::filesystem::path created_;  // the folder, or the first of those above it that were not there
  bool kept_ = false;
  std::vector<std::filesystem::path> old_run_;  // files, and folders whose files are all of a run
};

}  // namespace hetmem
