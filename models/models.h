// Model families as graph builders, each with its table of Hugging Face tensor names. A weight of
// the graph has the name, the shape and the layout of the tensor in the model folder (GPT-2's
// Conv1D stays [in, out]), so loading and saving move bytes and nothing else.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "graph/graph.h"
#include "io/model_config.h"

namespace hetmem {

struct GraphShape {
  int64_t batch = 1;
  int64_t sequence = 1;
};

// The forward graph of one micro-batch: inputs "tokens" and "labels" int32 [B,T], a kHeadLoss (or,
// with `training`, a kHeadLossTrain) at the end. Throws Error (kBadInput) where the sequence is
// longer than the model's positions.
Graph build_graph(const ModelConfig& config, const GraphShape& shape, bool training);

// How Hugging Face initialises a tensor of this architecture.
struct Initializer {
  enum class Kind { kNormal, kZeros, kOnes } kind = Kind::kNormal;
  double standard_deviation = 0;
};
struct WeightSpec {
  std::string name;  // canonical, as the graph has it ("transformer.h.0.attn.c_attn.weight")
  Shape shape;
  Initializer initializer;
  bool decays = true;  // weight decay applies: neither a bias nor a norm weight
};
// Every weight of the model in the order of first use.
std::vector<WeightSpec> weight_specs(const ModelConfig& config);

// The names under which a folder may hold a weight: the canonical one, then other forms in use
// (GPT-2 without the "transformer." prefix).
std::vector<std::string> names_in_folder(const ModelConfig& config, const std::string& weight);
// Tensors that folders hold beside the weights and that are not needed (GPT-2's mask buffers, a
// tied head stored twice).
bool is_ignored_tensor(const ModelConfig& config, const std::string& name);

// The rope table fp32 [positions, head_dim]: D/2 cosines, then D/2 sines.
std::vector<float> rope_table(const ModelConfig& config, int64_t positions);

}  // namespace hetmem
