#include "runtime/run_metrics.h"

#include <algorithm>
#include <fstream>

#include "io/json.h"

namespace hetmem {
namespace {

constexpr double kNotANumber = std::numeric_limits<double>::quiet_NaN();

double number(const Json& json, const char* key, double otherwise = 0) {
  const auto found = json.find(key);
  return found != json.end() && found->is_number() ? found->get<double>() : otherwise;
}

TierMetrics tier_of(const Json& memory, const char* tier) {
  const auto found = memory.find(tier);
  if (found == memory.end() || !found->is_object()) return {};
  return {static_cast<int64_t>(number(*found, "peak")),
          static_cast<int64_t>(number(*found, "budget"))};
}

StepMetrics step_of(const Json& line) {
  StepMetrics step;
  step.step = line["step"].get<int64_t>();
  step.loss = number(line, "loss", step.loss);
  step.grad_norm = number(line, "grad_norm", step.grad_norm);
  step.learning_rate = number(line, "learning_rate");
  step.seconds = number(line, "seconds");
  step.tokens_per_second = number(line, "tokens_per_second");
  step.exposed_copy_seconds = number(line, "exposed_copy_seconds");
  step.fraction_of_bound = number(line, "fraction_of_bound");
  const auto traffic = line.find("traffic");
  if (traffic != line.end() && traffic->is_object()) {
    step.to_device = number(*traffic, "to_device");
    step.to_host = number(*traffic, "to_host");
    step.disk_read = number(*traffic, "disk_read");
    step.disk_write = number(*traffic, "disk_write");
  }
  const auto memory = line.find("memory");
  if (memory != line.end() && memory->is_object()) {
    step.device = tier_of(*memory, "device");
    step.host = tier_of(*memory, "host");
    step.disk = tier_of(*memory, "disk");
  }
  return step;
}

}  // namespace

void RunMetrics::add(const std::string& text) {
  const Json line = Json::parse(text, nullptr, false);
  if (!line.is_object() || !line.contains("step") || !line["step"].is_number_integer()) return;
  if (line.contains("eval_loss")) {
    evaluation_loss.add(number(line, "step"), number(line, "eval_loss", kNotANumber));
  } else {
    add(step_of(line));
  }
}

void RunMetrics::add(const StepMetrics& step) {
  const auto x = static_cast<double>(step.step);
  loss.add(x, step.loss);
  grad_norm.add(x, step.grad_norm);
  learning_rate.add(x, step.learning_rate);
  tokens_per_second.add(x, step.tokens_per_second);
  const double share = step.fraction_of_bound;
  bound.add(x, share > 0 ? step.tokens_per_second / share : kNotANumber);
  ++steps;
  if (recent.size() == kRecentSteps) recent.erase(recent.begin());
  recent.push_back(step);
}

double RunMetrics::recent_median(double StepMetrics::*figure) const {
  if (recent.empty()) return 0;
  std::vector<double> values;
  for (const StepMetrics& step : recent) values.push_back(step.*figure);
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

RunMetrics read_metrics(const std::string& path) {
  RunMetrics metrics;
  std::ifstream file(path);
  std::string line;
  while (std::getline(file, line)) metrics.add(line);
  return metrics;
}

}  // namespace hetmem
