#include <iomanip>
#include <ostream>

#include "graph/compile.h"

namespace hetmem {
namespace {

void write_values(const Program& program, const std::vector<ValueId>& ids, std::ostream& out) {
  for (size_t i = 0; i < ids.size(); ++i) {
    const Value& value = program.value(ids[i]);
    const ValueId storage = program.storage_of[static_cast<size_t>(ids[i])];
    out << (i == 0 ? "" : ", ") << '%' << ids[i];
    if (storage != kNoValue) out << "@%" << storage;
    out << ' ' << value.name << value.shape.to_string();
  }
}

}  // namespace

void dump(const Program& program, std::ostream& out) {
  for (size_t i = 0; i < program.steps.size(); ++i) {
    const Step& step = program.steps[i];
    out << std::setw(5) << i << ' ' << (step.node.phase == Phase::kForward ? "fwd" : "bwd") << " L"
        << step.node.layer << ' ' << name_of(step.node.op) << "  ";
    write_values(program, step.node.outputs, out);
    out << " <- ";
    write_values(program, step.node.inputs, out);
    out << "  | " << std::setprecision(3) << step.cost.flops * 1e-6 << " MFLOP, "
        << step.cost.bytes * 1e-6 << " MB, workspace " << step.workspace_bytes
        << (step.node.accumulates ? ", accumulates" : "") << '\n';
  }
}

}  // namespace hetmem
