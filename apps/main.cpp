// The hetmem binary: reads the command line, runs one sub-command, prints errors in one line.
#include <fcntl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "apps/bench.h"
#include "apps/commands.h"
#include "core/error.h"
#include "core/fault_plan.h"
#include "io/file.h"

namespace hetmem::apps {
namespace {

// Long flags may be written with '_' for '-'.
std::vector<std::string> normalised(int argc, char** argv) {
  std::vector<std::string> arguments;
  for (int i = argc - 1; i > 0; --i) {
    std::string argument = argv[i];
    if (argument.rfind("--", 0) == 0) {
      const auto end =
          argument.begin() + static_cast<int64_t>(std::min(argument.find('='), argument.size()));
      std::replace(argument.begin(), end, '_', '-');
    }
    arguments.push_back(argument);
  }
  return arguments;
}

std::vector<std::string> names_of(const CLI::App& command) {
  std::vector<std::string> names;
  for (const CLI::Option* option : command.get_options()) {
    names.insert(names.end(), option->get_lnames().begin(), option->get_lnames().end());
    if (option->get_positional()) names.push_back(option->get_name());
  }
  return names;
}

// Commands whose options are in no table take --config by having the file's keys put on their
// command line, behind what is there already (arguments are in reverse).
std::vector<std::string> with_config_file(const CLI::App& app, std::vector<std::string> arguments) {
  if (arguments.empty() || (arguments.back() != "tokenize" && arguments.back() != "bench")) {
    return arguments;
  }
  const auto flag = std::find(arguments.begin(), arguments.end(), "--config");
  if (flag == arguments.end() || flag == arguments.begin()) return arguments;
  const OptionValues values =
      read_config_file(*(flag - 1), names_of(*app.get_subcommand(arguments.back())));
  arguments.erase(flag - 1, flag + 1);
  for (const auto& [name, texts] : values) {
    const bool positional = name == "files" || name == "name";
    if (std::find(arguments.begin(), arguments.end(), "--" + name) != arguments.end()) continue;
    if (!positional && texts == std::vector<std::string>{"false"}) continue;
    std::vector<std::string> words;
    if (!positional) words.push_back("--" + name);
    if (positional || texts != std::vector<std::string>{"true"}) {
      words.insert(words.end(), texts.begin(), texts.end());
    }
    arguments.insert(arguments.end() - 1, words.rbegin(), words.rend());
  }
  return arguments;
}

struct OptionRow {
  CLI::Option* option;
  std::string name;
  std::shared_ptr<std::vector<std::string>> values;
  bool is_switch = false;
};

// A table of options as flags of a sub-command.
class TableOptions {
 public:
  template <typename Config>
  TableOptions(CLI::App& command, const std::vector<OptionOf<Config>>& table, bool for_plan = false)
      : for_plan_(for_plan) {
    for (const OptionOf<Config>& row : table) add(command, row, for_plan && row.train_only);
    command.add_option("--config", config_file_, "YAML file of these options; flags win")
        ->type_name("FILE");
  }

  void add_later_options(CLI::App& command) {
    for (const LaterOption& later : later_options()) {
      auto values = std::make_shared<std::vector<std::string>>();
      CLI::Option* option =
          command.add_option("--" + std::string(later.name), *values)->expected(0, -1)->group("");
      rows_.push_back({option, std::string(later.name), values, false});
    }
  }

  // What the configuration file and the flags say; flags win.
  OptionValues values() const {
    OptionValues values;
    for (const OptionRow& row : rows_) {
      if (row.option->count() == 0) continue;
      values[row.name] = *row.values;
      // A switch stands for "true"; CLI11 gives it as one empty text.
      if (row.is_switch && *row.values == std::vector<std::string>{""}) values[row.name] = {"true"};
    }
    if (for_plan_) refuse_data_options(values);
    if (config_file_.empty()) return values;
    std::vector<std::string> names;
    for (const OptionRow& row : rows_) names.push_back(row.name);
    values.merge(read_config_file(config_file_, names));
    return values;
  }

 private:
  // Hidden ones are taken and change nothing: the command line of `train` serves `plan` too. (But
  // for those that name data; of a configuration file, they are passed over.)
  void add(CLI::App& command, const OptionHelp& row, bool hidden) {
    auto values = std::make_shared<std::vector<std::string>>();
    std::string help = row.help;
    if (!row.fallback.empty()) help += (help.empty() ? "[" : " [") + row.fallback + "]";
    CLI::Option* option =
        command.add_option("--" + row.name, *values, help)->group(hidden ? "" : row.group);
    option->type_name(row.value);
    if (row.value.empty()) {
      option->expected(0, 1);
    } else if (row.many) {
      option->expected(1, -1);
    } else if (row.joins) {
      option->expected(1)->allow_extra_args(false)->take_all();
    } else {
      // "[a]" is a text, not a list; of a flag that is given twice the last counts.
      option->expected(1)->allow_extra_args(false)->take_last();
    }
    rows_.push_back({option, row.name, values, row.value.empty()});
  }

  std::vector<OptionRow> rows_;
  std::string config_file_;
  bool for_plan_;
};

// The keys of the file are on the command line by the time that it is parsed: with_config_file.
void add_config_file(CLI::App& command) {
  command.add_option("--config", "YAML file of these options; flags win")
      ->type_name("FILE")
      ->expected(1);
}

CLI::App* add_tokenize(CLI::App& app, TokenizeOptions& options) {
  CLI::App* command =
      app.add_subcommand("tokenize", "write the token file that train would make of text");
  command->add_option("--model", options.model, "Hugging Face folder")
      ->type_name("DIR")
      ->required();
  command->add_option("files", options.files, "text, .jsonl, .bin, folders")
      ->type_name("FILE")
      ->required();
  command->add_option("--data-glob", options.data_glob, "which files of a folder [*]")
      ->type_name("GLOB");
  command->add_option("-o,--out", options.out, "the token file to write")
      ->type_name("FILE.bin")
      ->required();
  add_config_file(*command);
  return command;
}

CLI::App* add_bench(CLI::App& app, std::string& name, BenchOptions& options) {
  CLI::App* command = app.add_subcommand("bench", "measure one thing beside its reference");
  const CLI::Range at_least_one(int64_t{1}, int64_t{1} << 30);
  command->add_option("name", name, "gemm, adam, step, link, disk or memory")->required();
  command->add_flag("--json", options.json, "one JSON object");
  command->add_option("--threads", options.threads, "[all]")->type_name("N")->check(at_least_one);
  command
      ->add_option("--repeats", options.repeats,
                   "the best of N; memory: rounds over all budgets [5]")
      ->type_name("N")
      ->check(at_least_one);
  command->add_option("--model", options.model, "gemm, step, memory: a model folder")
      ->type_name("DIR");
  command->add_option("--batch-size", options.batch_size, "gemm, step, memory")
      ->type_name("N")
      ->check(at_least_one);
  command->add_option("--sequence-length", options.sequence_length, "gemm, step, memory")
      ->type_name("N")
      ->check(at_least_one);
  command
      ->add_option("--steps", options.steps, "memory: steps measured at a budget, after three [5]")
      ->type_name("N")
      ->check(at_least_one);
  command->add_option("--points", options.points, "memory: device budgets that are tried [8]")
      ->type_name("N")
      ->check(CLI::Range(4, 100));
  command
      ->add_option("--disk", options.disk,
                   "disk, memory: folders, used side by side; disk needs fio [the current one], "
                   "memory goes down to no host memory there [none]")
      ->type_name("DIR[,DIR...]")
      ->delimiter(',');
  command->add_option("--tune", options.tune, "gemm: write the best rules to a file")
      ->type_name("FILE");
  add_config_file(*command);
  return command;
}

TrainConfig resolve_and_note(const OptionValues& values) {
  TrainConfig config = resolve_config(values);
  for (const std::string& note : config.notes) print_note(note);
  return config;
}

// An option that the command does not have, else whatever else was not expected.
[[noreturn]] void refuse_extras(const CLI::App& app, const CLI::ExtrasError& error) {
  for (const CLI::App* command : app.get_subcommands()) {
    const std::vector<std::string> names = names_of(*command);
    for (const std::string& extra : command->remaining()) {
      if (extra.rfind("--", 0) != 0) continue;
      const std::string name = extra.substr(2, extra.find('=') - 2);
      if (std::find(names.begin(), names.end(), name) == names.end()) {
        refuse_unknown_option(name, names);
      }
    }
  }
  throw Error(ErrorKind::kBadInput, std::string(error.what()) + "; --help lists the options");
}

int run(int argc, char** argv) {
  const FaultPlan::Session faults(FaultPlan::Session::from_environment());
  CLI::App app{"hetmem trains models that are larger than one memory.", "hetmem"};
  app.set_version_flag("--version", version_text());
  app.require_subcommand(1);

  CLI::App* train_command = app.add_subcommand("train", "fine-tune or pre-train a model");
  TableOptions train_table(*train_command, train_options());
  train_table.add_later_options(*train_command);
  CLI::App* plan_command =
      app.add_subcommand("plan", "say whether a run fits and how long a step takes");
  TableOptions plan_table(*plan_command, train_options(), true);
  plan_table.add_later_options(*plan_command);
  PlanOutput plan_output;
  plan_command->add_flag("--json", plan_output.json, "one JSON object");
  plan_command->add_flag("--dump-program", plan_output.dump_program, "print the ops of a step");
  CLI::Option* from_trace =
      plan_command
          ->add_option("--from-trace", plan_output.from_trace,
                       "plan from the times that a run measured (its access_trace.json), without "
                       "its model; budgets default to the run's")
          ->type_name("FILE");
  plan_command
      ->add_option("--compare-trace", plan_output.compare_trace,
                   "say how the times of another trace differ")
      ->type_name("FILE")
      ->needs(from_trace);
  CLI::App* generate_command = app.add_subcommand("generate", "continue a text");
  const TableOptions generate_table(*generate_command, generate_options());
  CLI::App* export_command =
      app.add_subcommand("export", "write a checkpoint as a clean model folder");
  const TableOptions export_table(*export_command, export_options());
  TokenizeOptions tokenize_options;
  const CLI::App* tokenize_command = add_tokenize(app, tokenize_options);
  CLI::App* doctor_command = app.add_subcommand("doctor", "what this machine has");
  bool doctor_json = false;
  bool doctor_measure = false;
  doctor_command->add_flag("--json", doctor_json, "one JSON object");
  std::optional<std::string> doctor_disk;
  CLI::Option* measure =
      doctor_command->add_flag("--measure", doctor_measure, "measure rates and keep them for plan");
  doctor_command
      ->add_option("--disk", doctor_disk,
                   "folders whose disks --measure measures, too, used side by side [none]")
      ->type_name("DIR[,DIR]")
      ->needs(measure);

  std::string bench_name;
  BenchOptions bench_options;
  const CLI::App* bench_command = add_bench(app, bench_name, bench_options);

  if (argc > 1 && argv[1][0] != '-' &&
      app.get_subcommands([&](const CLI::App* command) { return command->check_name(argv[1]); })
          .empty()) {
    throw Error(ErrorKind::kBadInput,
                "there is no command \"" + std::string(argv[1]) + "\"; --help lists them");
  }
  try {
    app.parse(with_config_file(app, normalised(argc, argv)));
  } catch (const CLI::ExtrasError& error) {
    refuse_extras(app, error);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) {
      app.exit(error);
      flush_output();
      return 0;
    }
    throw Error(ErrorKind::kBadInput, std::string(error.what()) + "; --help lists the options");
  }
  if (train_command->parsed()) return train(resolve_and_note(train_table.values()));
  const auto command = [&] {
    if (plan_command->parsed() && !plan_output.from_trace.empty()) {
      return plan_from_trace(plan_table.values(), plan_output);
    }
    if (plan_command->parsed()) return plan(resolve_and_note(plan_table.values()), plan_output);
    if (tokenize_command->parsed()) return tokenize(tokenize_options);
    if (generate_command->parsed()) {
      return generate(resolve_generate_config(generate_table.values()));
    }
    if (export_command->parsed()) {
      return export_folder(resolve_options(export_options(), export_table.values()));
    }
    if (bench_command->parsed()) return bench(bench_name, bench_options);
    return doctor(doctor_json, doctor_measure, doctor_disk);
  };
  const int code = command();
  flush_output();
  return code;
}

// A file that a run writes must not get the number of a stream that was closed, and what is printed
// there with it. Writing to it is still an error.
void occupy_standard_streams() {
  for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(stream, F_GETFD) >= 0) continue;
    static_cast<void>(::open("/dev/null", stream == STDIN_FILENO ? O_WRONLY : O_RDONLY));
  }
}

}  // namespace

void flush_output() {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return;
  throw Error(ErrorKind::kStorage,
              std::string("cannot write to the standard output: ") + std::strerror(errno));
}

void print_note(const std::string& note) {
  std::fprintf(stderr, "hetmem: note: %s\n", note.c_str());
}

}  // namespace hetmem::apps

int main(int argc, char** argv) {
  hetmem::apps::occupy_standard_streams();
  // A write past the limit on the size of files fails as on a full disk, and one to a reader that
  // has left as on a closed file, instead of by a signal.
  std::signal(SIGXFSZ, SIG_IGN);
  std::signal(SIGPIPE, SIG_IGN);
  std::string message;
  int code = 1;
  try {
    return hetmem::apps::run(argc, argv);
  } catch (const hetmem::Error& error) {
    message = error.what();
    code = hetmem::exit_code(error.kind());
  } catch (const std::bad_alloc&) {
    message = "out of memory; lower the budgets";
    code = hetmem::exit_code(hetmem::ErrorKind::kDoesNotFit);
  } catch (const std::filesystem::filesystem_error& error) {
    const hetmem::Error as_ours = hetmem::error_of_file_system(error);
    message = as_ours.what();
    code = hetmem::exit_code(as_ours.kind());
  } catch (const std::exception& error) {
    message = error.what();
    if (std::ferror(stdout) != 0) {  // what prints throws as it likes
      message = std::string("cannot write to the standard output: ") + message;
      code = hetmem::exit_code(hetmem::ErrorKind::kStorage);
    }
  }
  std::replace(message.begin(), message.end(), '\n', ' ');
  std::fprintf(stderr, "hetmem: error: %s\n", message.c_str());
  return code;
}
