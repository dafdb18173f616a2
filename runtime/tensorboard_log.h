// TensorBoardLog: what a run tells TensorBoard, one event file a start of the run, beside the
// metrics.jsonl that holds the exact values. Not thread-safe.
#pragma once

#include <filesystem>
#include <string>

#include "io/event_file.h"
#include "runtime/trainer.h"

namespace hetmem {

class TensorBoardLog {
 public:
  // A new file in OUT/tensorboard. `steps_done` are those of the checkpoint that the run goes on
  // from: TensorBoard forgets what an earlier start wrote of later ones. Throws Error, as all
  // calls do (kStorage).
  TensorBoardLog(const std::string& out, int64_t steps_done);
  void step(const StepReport& report);
  void evaluation(int64_t step, double loss);

 private:
  EventFile file_;
};

// Whether it is such a file, by its name.
bool is_event_file(const std::filesystem::path& path);

}  // namespace hetmem
