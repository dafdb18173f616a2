#include "runtime/checkpoint_writer.h"

#include <chrono>
#include <utility>

#include "core/error.h"
#include "core/trace.h"

namespace hetmem {

using Clock = std::chrono::steady_clock;

CheckpointWriter::CheckpointWriter(Trainer& trainer, std::string out, int64_t keep)
    : trainer_(trainer), out_(std::move(out)), keep_(keep) {}

CheckpointWriter::~CheckpointWriter() {
  if (thread_.joinable()) thread_.join();
}

void CheckpointWriter::begin(const DataPosition& data) {
  finish();
  const auto start = Clock::now();
  step_ = trainer_.steps_done();
  CheckpointHead head = checkpoint_head(trainer_, &data);
  snapshot_ = trainer_.snapshot();
  ended_ = complete_ = false;
  try {
    thread_ = std::thread([this, head = std::move(head)] { write(head); });
  } catch (...) {
    snapshot_.reset();  // nobody would read it
    throw;
  }
  use_.waited_seconds += std::chrono::duration<double>(Clock::now() - start).count();
}

// On the thread that writes.
void CheckpointWriter::write(const CheckpointHead& head) noexcept {
  const trace::Range range("checkpoint", "write");
  const auto start = Clock::now();
  try {
    write_checkpoint(
        head,
        [this](ChunkList list, size_t tensor, const FloatSink& sink) {
          snapshot_->read(list, static_cast<int>(tensor), sink);
        },
        checkpoint_path(out_, head.steps_done));
    complete_ = true;
    prune_checkpoints(out_, keep_, head.steps_done);
  } catch (...) {
    error_ = std::current_exception();
  }
  snapshot_->stop();
  seconds_ = std::chrono::duration<double>(Clock::now() - start).count();
  ended_ = true;
}

void CheckpointWriter::check() {
  if (thread_.joinable() && ended_) collect();
}

void CheckpointWriter::finish() {
  if (!thread_.joinable()) return;
  const auto start = Clock::now();
  thread_.join();
  use_.waited_seconds += std::chrono::duration<double>(Clock::now() - start).count();
  collect();
}

// What the thread that has ended left.
void CheckpointWriter::collect() {
  if (thread_.joinable()) thread_.join();
  use_.seconds += seconds_;
  use_.waited_seconds += snapshot_->waited_seconds();
  use_.spared_bytes += snapshot_->spared_bytes();
  use_.chunks_without_room += snapshot_->chunks_without_room();
  snapshot_.reset();
  if (complete_) {
    newest_ = step_;
    ++use_.written;
  }
  if (!error_) return;
  try {
    std::rethrow_exception(std::exchange(error_, nullptr));
  } catch (const Error& error) {
    if (complete_) {
      throw Error(error.kind(), std::string("an old checkpoint could not be removed: ") +
                                    error.what() + "; the last complete one is " +
                                    checkpoint_path(out_, step_));
    }
    throw Error(error.kind(), std::string("a checkpoint could not be written: ") + error.what() +
                                  "; " + last_complete(out_));
  }
}

}  // namespace hetmem
