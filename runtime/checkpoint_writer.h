// CheckpointWriter: writes OUT/checkpoint-<step>/ beside training. begin() takes the state as it is
// (a ChunkSnapshot: nothing is copied beforehand) and a thread writes it while the next steps run;
// the folder appears when it is complete, and older ones are removed after that. One checkpoint is
// written at a time.
//
//   CheckpointWriter checkpoints(trainer, out, /*keep=*/2);
//   checkpoints.begin(data);        // after a step
//   checkpoints.check();            // after each step: throws what went wrong
//   checkpoints.finish();           // before the end
//
// Not thread-safe; must not outlive the Trainer.
#pragma once

#include <atomic>
#include <exception>
#include <memory>
#include <string>
#include <thread>

#include "chunk_manager/chunk_snapshot.h"
#include "io/token_dataset.h"
#include "runtime/checkpoint.h"
#include "runtime/trainer.h"

namespace hetmem {

// What writing checkpoints beside training has taken.
struct CheckpointUse {
  int64_t written = 0;
  double seconds = 0;               // of the thread that writes
  double waited_seconds = 0;        // for which training stood still
  int64_t spared_bytes = 0;         // copied so that training could go on
  int64_t chunks_without_room = 0;  // waited for the writer: the host budget had no room for a copy
};

class CheckpointWriter {
 public:
  CheckpointWriter(Trainer& trainer, std::string out, int64_t keep);
  // What is being written is finished; an error is dropped.
  ~CheckpointWriter();
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  // Begins to write the state after the last step, trained on `data`; first waits for the
  // checkpoint before. Throws as check() does.
  void begin(const DataPosition& data);
  // Throws Error (kStorage) where a checkpoint could not be written; the last complete one is as it
  // was.
  void check();
  // Waits for what is being written. Throws as check() does.
  void finish();
  // The step of the last checkpoint that is complete, or -1.
  int64_t newest() const { return newest_; }
  CheckpointUse use() const { return use_; }

 private:
  void write(const CheckpointHead& head) noexcept;
  void collect();

  Trainer& trainer_;
  const std::string out_;
  const int64_t keep_;
  int64_t newest_ = -1;
  CheckpointUse use_;
  // Of the checkpoint that is being written.
  int64_t step_ = -1;
  std::unique_ptr<ChunkSnapshot> snapshot_;
  std::exception_ptr error_;  // of the thread, read when it has ended
  bool complete_ = false;     // the same
  double seconds_ = 0;
  std::atomic<bool> ended_{false};
  std::thread thread_;
};

}  // namespace hetmem
