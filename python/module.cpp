// The module _hetmem: exceptions, the tables of options, and what does not need a Trainer.
#include <exception>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "io/file.h"
#include "io/manifest.h"
#include "python/bindings.h"
#include "runtime/generate_config.h"
#include "runtime/plan_report.h"
#include "runtime/train_config.h"

namespace hetmem::python {
namespace {

PyObject* out_of_budget = nullptr;
PyObject* corrupt_data = nullptr;
PyObject* non_finite = nullptr;

PyObject* new_exception(py::module_& module, const char* name, PyObject* base, const char* about) {
  const std::string full = std::string("hetmem.") + name;
  PyObject* type = PyErr_NewExceptionWithDoc(full.c_str(), about, base, nullptr);
  if (type == nullptr) throw py::error_already_set();
  module.add_object(name, py::handle(type));
  return type;
}

PyObject* type_of(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kBadInput:
      return PyExc_ValueError;
    case ErrorKind::kDoesNotFit:
      return out_of_budget;
    case ErrorKind::kStorage:
      return PyExc_OSError;
    case ErrorKind::kCorrupt:
      return corrupt_data;
    case ErrorKind::kNonFinite:
      return non_finite;
    case ErrorKind::kInternal:
      break;
  }
  return PyExc_RuntimeError;
}

void bind_errors(py::module_& module) {
  out_of_budget = new_exception(module, "OutOfBudget", PyExc_MemoryError,
                                "A budget is too small; the message names the smallest that works. "
                                "The command line exits with 3.");
  corrupt_data = new_exception(module, "CorruptData", PyExc_OSError,
                               "A file is not what was written: of another size or checksum. The "
                               "command line exits with 4.");
  non_finite =
      new_exception(module, "NonFinite", PyExc_FloatingPointError,
                    "Loss or gradient is not finite; the training state is as it was before "
                    "the step. The command line exits with 5.");
  py::register_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(std::move(pointer));
    } catch (const Error& error) {
      PyErr_SetString(type_of(error.kind()), error.what());
    } catch (const std::filesystem::filesystem_error& error) {
      PyErr_SetString(PyExc_OSError, error_of_file_system(error).what());
    }
  });
}

template <typename Config>
py::list rows_of(const std::vector<OptionOf<Config>>& table) {
  py::list rows;
  for (const OptionOf<Config>& option : table) {
    py::dict row;
    row["name"] = option.name;
    row["group"] = option.group;
    row["value"] = option.value;
    row["default"] = option.fallback;
    row["help"] = option.help;
    row["many"] = option.many;
    row["train_only"] = option.train_only;
    rows.append(row);
  }
  return rows;
}

}  // namespace

void check_signals() {
  const py::gil_scoped_acquire gil;
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

PYBIND11_MODULE(_hetmem, module) {
  module.doc() = "The compiled part of hetmem; use the package hetmem.";
  module.attr("__version__") = HETMEM_VERSION;
  bind_errors(module);
  module.def("train_options", [] { return rows_of(train_options()); });
  module.def("generate_options", [] { return rows_of(generate_options()); });
  module.def("later_options", [] {
    py::dict options;
    for (const LaterOption& later : later_options()) {
      options[py::str(std::string(later.name))] = std::string(later.fallback);
    }
    return options;
  });
  // What the options come to, as texts that they would take.
  module.def("resolve", [](const OptionValues& values) {
    const TrainConfig config = resolve_config(values);
    OptionValues resolved;
    for (const Option& option : train_options()) resolved[option.name] = option.get(config);
    return std::pair(resolved, config.notes);
  });
  module.def("read_config_file", [](const std::string& path) {
    std::vector<std::string> names = names_of(train_options());
    for (const LaterOption& later : later_options()) names.emplace_back(later.name);
    return read_config_file(path, names);
  });
  module.def("nearest_name", &nearest_name);
  module.def("refuse_data_options", &refuse_data_options);
  module.def("unlisted_entry", &unlisted_entry);
  // The object that `hetmem plan --json` prints, and what it prints without.
  module.def("plan", [](const OptionValues& values) {
    const py::gil_scoped_release released;
    const PlanReport report = make_plan(resolve_config(values));
    return std::pair(to_json(report), to_text(report));
  });
  bind_data(module);
  bind_trainer(module);
}

}  // namespace hetmem::python
