#include "apps/commands.h"
#include "core/error.h"
#include "runtime/export.h"

namespace hetmem::apps {
namespace {

OptionOf<ExportConfig> dtype_option() {
  OptionOf<ExportConfig> option = options::row<ExportConfig>(
      {"dtype", "Model", "fp32|bf16|fp16", "the model's", "dtype of the weights that are written"});
  option.set = [](ExportConfig& config, const options::Values& values) {
    const std::string& value = options::single("dtype", values);
    if (value == "fp32" || value == "float32") {
      config.dtype = DType::kFloat32;
    } else if (value == "bf16" || value == "bfloat16") {
      config.dtype = DType::kBFloat16;
    } else if (value == "fp16" || value == "float16") {
      config.dtype = DType::kFloat16;
    } else {
      options::refuse("dtype", value, "one of fp32 bf16 fp16");
    }
  };
  return option;
}

}  // namespace

const std::vector<OptionOf<ExportConfig>>& export_options() {
  static const std::vector<OptionOf<ExportConfig>> table{
      options::text({"checkpoint", "Model", "DIR", "", "checkpoint or model folder (required)"},
                    &ExportConfig::checkpoint),
      options::text({"out", "Model", "DIR", "", "the folder to write (required)"},
                    &ExportConfig::out),
      dtype_option()};
  return table;
}

int export_folder(const ExportConfig& config) {
  if (config.checkpoint.empty()) {
    throw Error(ErrorKind::kBadInput, "--checkpoint is required: a checkpoint or model folder");
  }
  if (config.out.empty()) throw Error(ErrorKind::kBadInput, "--out is required: a new folder");
  export_model(config.checkpoint, config.out, config.dtype);
  return 0;
}

}  // namespace hetmem::apps
