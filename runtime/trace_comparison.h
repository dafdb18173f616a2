// Compares the access traces of two runs of one step (other machines, budgets, threads): in all,
// and by op. Pure.
#pragma once

#include <string>
#include <vector>

#include "runtime/trace_file.h"

namespace hetmem {

struct OpDifference {
  std::string name;
  // Of all its calls in a step: micro-batches, parts.
  double seconds = 0;
  double other_seconds = 0;
  double difference() const { return other_seconds - seconds; }
};

struct TraceComparison {
  double op_seconds = 0;
  double other_op_seconds = 0;
  double optimizer_seconds = 0;  // where the state is on the host
  double other_optimizer_seconds = 0;
  CopyRates rates;
  CopyRates other_rates;
  std::vector<OpDifference> ops;  // the largest difference first
};

// Ops are the same where their names are; those that one trace lacks count as 0 there.
TraceComparison compare(const TraceRecord& record, const TraceRecord& other);
std::string to_json(const TraceComparison& comparison);
// A table for people: totals, then the ops that differ most.
std::string to_text(const TraceComparison& comparison);

}  // namespace hetmem
