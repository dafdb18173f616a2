// Trainer for Python. Every call that works on a trainer gives up the GIL and then takes its turn
// at the trainer; train() lets others have theirs after each step, and its callbacks may call the
// trainer again.
#include "runtime/trainer.h"

#include <sys/types.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/memory_kind.h"
#include "io/tokenizer.h"
#include "python/bindings.h"
#include "python/turns.h"
#include "runtime/checkpoint.h"
#include "runtime/generate_config.h"
#include "runtime/generator.h"
#include "runtime/machine.h"
#include "runtime/plan_report.h"
#include "runtime/schedule.h"
#include "runtime/training_run.h"

namespace hetmem::python {
namespace {

using FloatArray = py::array_t<float, py::array::c_style>;

std::vector<py::ssize_t> dimensions_of(const Shape& shape) {
  std::vector<py::ssize_t> dimensions;
  for (int i = 0; i < shape.rank(); ++i) dimensions.push_back(shape[i]);
  return dimensions;
}

py::dict tier_of(const TierUse& use) {
  py::dict kinds;
  for (int kind = 0; kind < kMemoryKinds; ++kind) {
    kinds[py::str(std::string(name_of(static_cast<MemoryKind>(kind))))] =
        use.by_kind[static_cast<size_t>(kind)];
  }
  py::dict tier;
  tier["budget"] = use.budget;
  tier["peak"] = use.peak;
  tier["by_kind"] = kinds;
  return tier;
}

py::dict dict_of(const StepReport& report) {
  py::dict memory;
  memory["device"] = tier_of(report.device);
  memory["host"] = tier_of(report.host);
  memory["disk"] = tier_of(report.disk);
  py::dict traffic;
  traffic["to_device"] = report.traffic.to_device;
  traffic["to_host"] = report.traffic.to_host;
  traffic["disk_read"] = report.traffic.disk_read;
  traffic["disk_write"] = report.traffic.disk_write;
  py::dict step;
  step["step"] = report.step;
  step["loss"] = report.loss;
  step["grad_norm"] = report.grad_norm;
  step["learning_rate"] = report.learning_rate;
  step["tokens"] = report.tokens;
  step["seconds"] = report.seconds;
  step["skipped"] = report.skipped;
  step["memory"] = memory;
  step["traffic"] = traffic;
  step["exposed_copy_seconds"] = report.exposed_copy_seconds;
  step["fraction_of_bound"] = report.fraction_of_bound;
  return step;
}

std::string generate_text(const OptionValues& values, WeightReader weights) {
  const GenerateConfig config = resolve_generate_config(values);
  Generator generator(config.model, config.machine, std::move(weights));
  const Tokenizer tokenizer = Tokenizer::load(config.model);
  generator.start(tokenizer.encode_prompt(*config.prompt), config.max_new_tokens, config.sampling);
  StreamDecoder decoder(tokenizer);
  std::string text;
  while (const std::optional<int32_t> id = generator.next()) {
    text += decoder.next(*id);
    check_signals();
  }
  return text + decoder.finish();
}

class PythonTrainer {
 public:
  explicit PythonTrainer(const OptionValues& values) {
    const TrainConfig config = resolve_config(values);
    if (!config.out.empty()) out_ = absolute_path(config.out);
    const std::string resume = resume_folder(config);
    if (config.machine.empty()) keep_rates(device_of(config));
    trainer_ = std::make_unique<Trainer>(config, config.steps.value_or(kNoEnd));
    if (!resume.empty()) resumed_ = load_checkpoint(*trainer_, resume);
    trained_on_ = resumed_.data;
    // A run that was cut off goes on to where it would have ended.
    const int64_t end = resumed_.total_steps.value_or(0);
    if (!config.steps && end > resumed_.step) trainer_->set_total_steps(end);
    for (StateTensor& tensor : trainer_->state()) {
      index_.emplace(tensor.name, tensors_.size());
      tensors_.push_back(std::move(tensor));
    }
  }
  ~PythonTrainer() {
    // The threads that a Trainer joins are those of the process that made it.
    if (owner_ != getpid()) static_cast<void>(trainer_.release());
  }
  PythonTrainer(const PythonTrainer&) = delete;
  PythonTrainer& operator=(const PythonTrainer&) = delete;

  // What the user is to know of the checkpoint.
  const std::vector<std::string>& notes() const { return resumed_.notes; }

  // f(Trainer&), without the GIL and with the trainer to itself.
  template <typename Function>
  auto use(const Function& function) {
    require_own_process();
    const py::gil_scoped_release released;
    const std::lock_guard lock(turns_);
    if (trainer_ == nullptr) throw Error(ErrorKind::kBadInput, "this Trainer is closed");
    return function(*trainer_);
  }

  // In a child after a fork there is nothing to give back: a `with` block ends in both processes.
  void close() {
    if (owner_ != getpid()) return;
    const py::gil_scoped_release released;
    const std::lock_guard lock(turns_);
    await_no_training("a Trainer cannot be closed by a callback of its train()");
    trainer_.reset();
  }

  StepReport step(const TokenArray& tokens) {
    const std::vector<int32_t> ids = copy_of(tokens);
    return use([&](Trainer& trainer) {
      const int64_t length = trainer.total_steps();
      if (in_train_ == std::thread::id()) {
        leave_ended_training(trainer);
      } else if (lengthened_) {  // also the schedule, for this step as for those that follow
        trainer.set_total_steps(length + 1);
      }
      try {
        const StepReport report = trainer.step(ids);
        if (trained_on_) ++trained_on_->first;  // the data go on where they are
        return report;
      } catch (...) {
        trainer.set_total_steps(length);
        throw;
      }
    });
  }

  double evaluate(const TokenArray& tokens) {
    const std::vector<int32_t> ids = copy_of(tokens);
    return use([&](Trainer& trainer) { return trainer.evaluate(ids, check_signals); });
  }

  double evaluate_files(const std::vector<std::string>& files) {
    return use([&](Trainer& trainer) {
      const TokenDataset data(files, trainer.sequence_length(), trainer.model().vocabulary);
      return evaluate_all(trainer, data, check_signals);
    });
  }

  void save(const std::string& folder, bool checkpoint) {
    use([&](Trainer& trainer) {
      if (checkpoint) {
        save_checkpoint(trainer, folder, trained_on_ ? &*trained_on_ : nullptr);
      } else {
        save_model(trainer, folder);
      }
    });
  }

  // The budgets among `options`; the others stay as they were given: what was auto is found anew.
  void set_budget(const OptionValues& options) {
    use([&](Trainer& trainer) {
      TrainConfig config = trainer.config();
      for (const auto& [name, texts] : options) {
        find_option(train_options(), canonical_option(name))->set(config, texts);
      }
      trainer.set_budget(config.device_memory, config.host_memory);
    });
  }

  const std::vector<StateTensor>& tensors() const { return tensors_; }

  FloatArray read(const std::string& name) {
    const size_t index = index_of(name);
    FloatArray array(dimensions_of(tensors_[index].shape));
    float* to = array.mutable_data();
    use([&](Trainer& trainer) {
      trainer.read(ChunkList::kWeights, index, [&](const float* data, int64_t count) {
        std::memcpy(to, data, static_cast<size_t>(count) * sizeof(float));
        to += count;
      });
    });
    return array;
  }

  void write(const std::string& name, const FloatArray& array) {
    const size_t index = index_of(name);
    HETMEM_ASSERT(array.size() == tensors_[index].shape.elements());
    const float* from = array.data();
    use([&](Trainer& trainer) {
      trainer.write(ChunkList::kWeights, index, [&](float* to, int64_t first, int64_t count) {
        std::memcpy(to, from + first, static_cast<size_t>(count) * sizeof(float));
      });
    });
  }

  // As run_training: `options` over those of the trainer, but for its --steps and --epochs, which
  // count from here or from the run's first step.
  // `on_progress(report or None, steps taken, total, eval_loss)` ends the run by returning False;
  // after Ctrl-C it ends too, and KeyboardInterrupt is raised.
  py::dict train(const OptionValues& options, bool from_here, const py::function& on_progress) {
    std::atomic<bool> stop{false};
    std::optional<py::error_already_set> interrupt;
    // Goes on with the run unless `look` says no, or Ctrl-C has been pressed.
    const auto unless_stopped = [&](const auto& look) {
      const py::gil_scoped_acquire gil;
      try {
        if (PyErr_CheckSignals() != 0) throw py::error_already_set();
        if (look()) return;
      } catch (py::error_already_set& error) {
        if (!error.matches(PyExc_KeyboardInterrupt)) throw;
        interrupt.emplace(error);
      }
      stop = true;
    };
    const auto report = [&](const RunProgress& progress) {
      turns_.pass();
      unless_stopped([&] { return tell(on_progress, progress); });
    };
    std::string given_out;
    const RunResult result = use([&](Trainer& trainer) {
      TrainConfig config = trainer.config();
      given_out = std::exchange(config.out, out_);
      config.steps.reset();
      config.epochs.reset();
      for (const auto& [name, texts] : options) {
        const Option* option = find_option(train_options(), canonical_option(name));
        HETMEM_ASSERT(option != nullptr);
        option->set(config, texts);
      }
      await_no_training("a callback of train() cannot train; it can step()");
      if (trainer_ == nullptr) throw Error(ErrorKind::kBadInput, "this Trainer is closed");
      const InTrain mark(in_train_);
      const Continuation from{from_here,
                              wrote_,
                              resumed_,
                              trained_on_,
                              [&](const RunMark& run) { wrote_ = run; },
                              [&](const DataPosition& data) { trained_on_ = data; },
                              [&] { unless_stopped([] { return true; }); }};
      lengthened_ = ends_with_data(config, from);
      return run_training(trainer, config, from, report, stop);
    });
    if (interrupt) throw py::error_already_set(*interrupt);
    py::dict ended;
    ended["steps"] = result.steps;
    ended["loss"] = result.last_loss;
    ended["out"] = given_out;
    ended["interrupted"] = result.interrupted;
    return ended;
  }

 private:
  // The thread that trains, while it does.
  struct InTrain {
    explicit InTrain(std::thread::id& thread) : thread_(thread) {
      thread_ = std::this_thread::get_id();
    }
    ~InTrain() { thread_ = {}; }
    InTrain(const InTrain&) = delete;
    InTrain& operator=(const InTrain&) = delete;
    std::thread::id& thread_;
  };

  // With the turn: other threads wait for the end of a training, a callback of it is refused.
  void await_no_training(const char* refusal) {
    while (in_train_ != std::thread::id()) {
      if (in_train_ == std::this_thread::get_id()) throw Error(ErrorKind::kBadInput, refusal);
      turns_.pass();
    }
  }

  // The steps that a train() was given, when they are taken, are no length of those that follow:
  // that is --steps again. A checkpoint between them is resumed with the same.
  void leave_ended_training(Trainer& trainer) const {
    const int64_t done = trainer.steps_done();
    const int64_t own = trainer.config().steps.value_or(kNoEnd);
    if (done >= trainer.total_steps() && done < own) trainer.set_total_steps(own);
  }

  static bool tell(const py::function& on_progress, const RunProgress& progress) {
    const py::object report =
        progress.report == nullptr ? py::object(py::none()) : py::object(dict_of(*progress.report));
    const py::object answer =
        on_progress(report, progress.step, progress.total_steps, progress.eval_loss);
    return !answer.is(py::bool_(false));
  }

  // What Python holds may change while the GIL is given up.
  static std::vector<int32_t> copy_of(const TokenArray& tokens) {
    const std::span<const int32_t> ids = span_of(tokens);
    return {ids.begin(), ids.end()};
  }

  size_t index_of(const std::string& name) const {
    const auto found = index_.find(name);
    if (found == index_.end()) throw py::key_error(name);
    return found->second;
  }

  void require_own_process() const {
    if (owner_ == getpid()) return;
    throw std::runtime_error(
        "this Trainer was made by process " + std::to_string(owner_) +
        ", and its threads are there; make a Trainer in this process after the fork, or start "
        "processes with the method \"spawn\"");
  }

  std::unique_ptr<Trainer> trainer_;
  std::vector<StateTensor> tensors_;
  std::map<std::string, size_t> index_;
  Turns turns_;
  ResumedFrom resumed_;
  std::optional<DataPosition> trained_on_;  // none: of single steps alone
  std::thread::id in_train_;
  bool lengthened_ = false;       // the train() of in_train_, by steps on other data
  std::string out_;               // --out from wherever the process goes; empty: none
  std::optional<RunMark> wrote_;  // of the last train() that had a folder
  pid_t owner_ = getpid();
};

OptionValues values_of(const TrainConfig& config) {
  OptionValues values;
  for (const Option& option : train_options()) values[option.name] = option.get(config);
  return values;
}

void bind_counts(py::class_<PythonTrainer>& trainer) {
  // A value that asks nothing of the device.
  const auto count = [&](const char* name, auto get) {
    trainer.def(name, [get](PythonTrainer& self) { return self.use(get); });
  };
  count("steps_done", [](Trainer& t) { return t.steps_done(); });
  count("parameter_count", [](Trainer& t) { return t.parameters(); });
  count("sequence_length", [](Trainer& t) { return t.sequence_length(); });
  count("sequences_per_step", [](Trainer& t) { return t.sequences_per_step(); });
  count("vocabulary", [](Trainer& t) { return t.model().vocabulary; });
  count("options", [](Trainer& t) { return values_of(t.config()); });
  count("plan", [](Trainer& t) {
    const PlanReport report = t.plan_report();
    return std::pair(to_json(report), to_text(report));
  });
}

}  // namespace

void bind_trainer(py::module_& module) {
  py::class_<PythonTrainer> trainer(module, "Trainer");
  trainer.def(py::init<const OptionValues&>(), py::call_guard<py::gil_scoped_release>());
  trainer.def("notes", &PythonTrainer::notes);
  trainer.def("close", &PythonTrainer::close);
  trainer.def("step", [](PythonTrainer& self, const TokenArray& tokens) {
    return dict_of(self.step(tokens));
  });
  trainer.def("evaluate", &PythonTrainer::evaluate);
  trainer.def("evaluate_files", &PythonTrainer::evaluate_files);
  trainer.def("train", &PythonTrainer::train);
  trainer.def("read", &PythonTrainer::read);
  trainer.def("write", &PythonTrainer::write);
  trainer.def("tensors", [](const PythonTrainer& self) {
    py::list tensors;
    for (const StateTensor& tensor : self.tensors()) {
      tensors.append(py::make_tuple(tensor.name, py::tuple(py::cast(dimensions_of(tensor.shape))),
                                    tensor.moments > 0));
    }
    return tensors;
  });
  trainer.def("save", &PythonTrainer::save);
  trainer.def("set_budget", &PythonTrainer::set_budget);
  trainer.def("generate", [](PythonTrainer& self, const OptionValues& values) {
    return self.use([&](Trainer& t) {
      return generate_text(values, [&](size_t index, const FloatSink& sink) {
        t.read(ChunkList::kWeights, index, sink);
      });
    });
  });
  bind_counts(trainer);
  module.def("generate", [](const OptionValues& values) {
    const py::gil_scoped_release released;
    return generate_text(values, {});
  });
}

}  // namespace hetmem::python
