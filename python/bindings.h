// The parts of the module _hetmem. The package hetmem is its only user: what is checked there
// (shapes, dtypes) is not checked again.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <span>

#include "runtime/options.h"

namespace hetmem::python {

namespace py = pybind11;

using TokenArray = py::array_t<int32_t, py::array::c_style>;
inline std::span<const int32_t> span_of(const TokenArray& tokens) {
  return {tokens.data(), static_cast<size_t>(tokens.size())};
}

// Runs pending signal handlers: after Ctrl-C it throws KeyboardInterrupt. Takes the GIL; on any
// other thread than the main one it does nothing.
void check_signals();

void bind_data(py::module_& module);
void bind_trainer(py::module_& module);

}  // namespace hetmem::python
