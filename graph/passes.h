// The passes of compile(), each a function over values and nodes. Pure.
#pragma once

#include <vector>

#include "graph/compile.h"
#include "graph/graph.h"

namespace hetmem {

// y = linear(x) followed by y + r becomes one linear with r as its addend, where y has no other use
// and r is there before the linear runs.
void fuse_residual_adds(const std::vector<Value>& values, std::vector<Node>& nodes);

// Drops nodes none of whose outputs is read, a loss or the gradient of a parameter.
void remove_dead_nodes(const std::vector<Value>& values, std::vector<Node>& nodes);

// Outputs of cheap ops whose operands the backward pass keeps anyway are made again there, just
// before they are needed, instead of being kept.
void remake_cheap_values(std::vector<Value>& values, std::vector<Node>& nodes);

// Marks temporaries that are made in the forward and read in the backward pass as saved.
void mark_saved(std::vector<Value>& values, const std::vector<Node>& nodes);

// Lifetimes, and which values share memory (Program::lifetimes, Program::storage_of).
void assign_storage(Program& program, bool in_place);

}  // namespace hetmem
