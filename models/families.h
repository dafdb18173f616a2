// The builders of the families, for models.cpp alone. Pure.
#pragma once

#include <string>
#include <vector>

#include "graph/graph.h"
#include "models/models.h"

namespace hetmem::models {

// The weights of a family in the order of first use, the head last where it is not tied.
std::vector<WeightSpec> gpt2_weights(const ModelConfig& config);
std::vector<WeightSpec> llama_weights(const ModelConfig& config);

// What the builders share: the weights as graph values, looked up by name, and dropout sites
// numbered in the order in which they are built.
class Builder {
 public:
  Builder(Graph& graph, const ModelConfig& config, const std::vector<WeightSpec>& weights,
          bool training);
  ValueId weight(const std::string& name) const;
  ValueId op(OpKind kind, OpParams params, std::vector<ValueId> inputs, const std::string& name);
  // x w^T + bias; the bias is taken where the model has one under NAME.bias.
  ValueId linear(ValueId x, const std::string& name, bool weight_in_out);
  // x where `probability` is 0 or this is no training graph.
  ValueId dropout(ValueId x, double probability, const std::string& name);
  uint32_t next_dropout_site() { return dropout_sites_++; }
  bool training() const { return training_; }
  void set_layer(int layer) { layer_ = layer; }

 private:
  Graph& graph_;
  std::vector<std::pair<std::string, ValueId>> weights_;
  bool training_;
  int layer_ = -1;
  uint32_t dropout_sites_ = 0;
};

// From tokens [B,T] to the normed hidden states [B,T,C].
ValueId gpt2_hidden(Builder& builder, const ModelConfig& config, ValueId tokens);
ValueId llama_hidden(Builder& builder, const ModelConfig& config, ValueId tokens, ValueId table);

}  // namespace hetmem::models
