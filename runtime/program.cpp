#include "runtime/program.h"

#include <algorithm>
#include <regex>

#include "core/error.h"
#include "models/models.h"
#include "ops/ops.h"

namespace hetmem {
namespace {

std::vector<Shape> shapes_of(const std::vector<Value>& values) {
  std::vector<Shape> shapes;
  for (const Value& value : values) shapes.push_back(value.shape);
  return shapes;
}

CompileOptions base_options(const TrainConfig& config, bool training) {
  CompileOptions options;
  options.training = training;
  options.bf16 = computes_in_bf16(config);
  options.workspace = [device = device_of(config).kind](OpKind kind, const OpParams& params,
                                                        const std::vector<Value>& inputs) {
    return ops::workspace_bytes(device, kind, params, shapes_of(inputs));
  };
  return options;
}

std::regex parse_expression(const std::string& expression) {
  try {
    return std::regex(expression, std::regex::ECMAScript);
  } catch (const std::regex_error& error) {
    throw Error(ErrorKind::kBadInput,
                "--freeze \"" + expression + "\" is not a regular expression: " + error.what());
  }
}

}  // namespace

Program compile_training(const ModelConfig& model, const TrainConfig& config, int64_t sequence) {
  CompileOptions options = base_options(config, true);
  if (!config.freeze.empty()) {
    options.frozen = [expression = parse_expression(config.freeze)](const std::string& weight) {
      return std::regex_search(weight, expression);
    };
  }
  Program program = compile(build_graph(model, {config.batch_size, sequence}, true), options);
  const bool any = std::any_of(program.gradients.begin(), program.gradients.end(),
                               [](ValueId id) { return id != kNoValue; });
  if (!any) {
    throw Error(ErrorKind::kBadInput,
                "--freeze \"" + config.freeze + "\" leaves no parameter to train");
  }
  return program;
}

Program compile_evaluation(const ModelConfig& model, const TrainConfig& config, int64_t sequence) {
  return compile(build_graph(model, {config.batch_size, sequence}, false),
                 base_options(config, false));
}

}  // namespace hetmem
