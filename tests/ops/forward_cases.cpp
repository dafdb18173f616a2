#include <cmath>

#include "core/philox.h"
#include "op_case.h"

namespace hetmem::testing_ops {
namespace {

Operand integers(const Shape& shape, int32_t below, uint64_t stream, bool ignored) {
  Operand operand{shape, {}, {}};
  for (int64_t i = 0; i < shape.elements(); ++i) {
    const auto words = philox(11, stream, static_cast<uint64_t>(i));
    operand.integers.push_back(ignored && words[1] % 4 == 0
                                   ? -100
                                   : static_cast<int32_t>(words[0] % static_cast<uint32_t>(below)));
  }
  return operand;
}

Operand rope_table(int64_t time, int64_t head_dim) {
  Operand table{{time, head_dim}, {}, {}};
  for (int64_t t = 0; t < time; ++t) {
    for (int64_t i = 0; i < head_dim; ++i) {
      const auto pair = static_cast<double>(i % (head_dim / 2));
      const double angle =
          static_cast<double>(t) * std::pow(1e4, -2.0 * pair / static_cast<double>(head_dim));
      table.numbers.push_back(
          static_cast<float>(i < head_dim / 2 ? std::cos(angle) : std::sin(angle)));
    }
  }
  return table;
}

void add_embeddings(std::vector<OpCase>& cases, bool small) {
  const int64_t time = small ? 5 : 70;
  const int64_t width = small ? 3 : 100;
  const int64_t vocabulary = small ? 4 : 50;  // tokens repeat
  const Operand tokens = integers({2, time}, static_cast<int32_t>(vocabulary), 1, false);
  const Operand table = normal({vocabulary, width}, 2);
  cases.push_back({"embedding",
                   OpKind::kEmbedding,
                   EmbeddingParams{},
                   {tokens, table},
                   {{2, time, width}},
                   {}});
  cases.push_back({"embedding_with_positions",
                   OpKind::kEmbedding,
                   EmbeddingParams{true, false},
                   {tokens, table, normal({time + 3, width}, 3)},
                   {{2, time, width}},
                   {}});
}

void add_linears(std::vector<OpCase>& cases, bool small) {
  const Shape x = small ? Shape{2, 3, 5} : Shape{2, 67, 200};
  const int64_t n = small ? 4 : 333;
  for (const bool in_out : {false, true}) {
    for (const bool extras : {false, true}) {
      const int64_t k = x[-1];
      std::vector<Operand> inputs{normal(x, 4), normal(in_out ? Shape{k, n} : Shape{n, k}, 5, 0.2)};
      if (extras) inputs.push_back(normal({n}, 6));
      if (extras) inputs.push_back(normal({x[0], x[1], n}, 7));
      cases.push_back(
          {std::string("linear") + (in_out ? "_in_out" : "") + (extras ? "_bias_residual" : ""),
           OpKind::kLinear,
           LinearParams{in_out, extras, extras},
           inputs,
           {{x[0], x[1], n}},
           {}});
    }
  }
}

void add_norms(std::vector<OpCase>& cases, bool small) {
  for (const int64_t width : small ? std::vector<int64_t>{7} : std::vector<int64_t>{13, 64, 768}) {
    const Shape x{2, small ? 3 : 70, width};
    const Operand w = normal({width}, 9, 0.1, 1.0);
    const std::string suffix = "_" + std::to_string(width);
    cases.push_back({"layer_norm" + suffix,
                     OpKind::kLayerNorm,
                     NormParams{1e-5F, false},
                     {normal(x, 8), w, normal({width}, 10)},
                     {x, {x.rows(), 2}},
                     {}});
    cases.push_back({"rms_norm" + suffix,
                     OpKind::kRmsNorm,
                     NormParams{1e-6F, false},
                     {normal(x, 8), w},
                     {x, {x.rows()}},
                     {}});
  }
  // q/k norms: three heads to a row, each normed by itself.
  const int64_t d = small ? 4 : 64;
  const Shape x{2, small ? 2 : 33, 3 * d};
  cases.push_back({"rms_norm_of_heads",
                   OpKind::kRmsNorm,
                   NormParams{1e-6F, false},
                   {normal(x, 8), normal({d}, 9, 0.1, 1.0)},
                   {x, {x.elements() / d}},
                   {}});
}

struct Heads {
  int64_t heads;
  int64_t kv_heads;
  int64_t head_dim;
  bool packed;
  float dropout;
};

void add_attention(std::vector<OpCase>& cases, bool small) {
  const int64_t batch = 2;
  // Beyond one block of queries and within a tile of keys.
  const int64_t time = small ? 5 : 300;
  for (const Heads& h :
       small ? std::vector<Heads>{{2, 2, 4, true, 0}, {4, 2, 4, false, 0}, {3, 1, 6, false, 0.3F}}
             : std::vector<Heads>{{2, 2, 64, true, 0},
                                  {4, 2, 20, false, 0},
                                  {3, 1, 34, false, 0.3F},
                                  {2, 1, 13, true, 0.1F}}) {
    AttentionParams params{
        h.heads,  h.kv_heads, h.head_dim, 1.0F / std::sqrt(static_cast<float>(h.head_dim)),
        h.packed, h.dropout,  3};
    const Shape q{batch, time, h.heads * h.head_dim};
    const Shape kv{batch, time, h.kv_heads * h.head_dim};
    std::vector<Operand> inputs{normal(q, 11), normal(kv, 12), normal(kv, 13)};
    if (h.packed) inputs = {normal({batch, time, q[2] + 2 * kv[2]}, 11)};
    cases.push_back({"attention_" + std::to_string(h.heads) + "_" + std::to_string(h.kv_heads) +
                         "_" + std::to_string(h.head_dim) + (h.dropout > 0 ? "_dropout" : ""),
                     OpKind::kAttention,
                     params,
                     inputs,
                     {q, {batch, h.heads, time}},
                     {false, 1.0, random_key_of(5, 6, 7)}});
  }
}

void add_elementwise(std::vector<OpCase>& cases, bool small) {
  const Shape x = small ? Shape{2, 3, 5} : Shape{3, 71, 333};
  for (const bool tanh : {true, false}) {
    cases.push_back({tanh ? "gelu_tanh" : "gelu_erf",
                     OpKind::kGelu,
                     GeluParams{tanh},
                     {normal(x, 14, 2.0)},
                     {x},
                     {}});
  }
  cases.push_back({"swiglu", OpKind::kSwiglu, {}, {normal(x, 15, 2.0), normal(x, 16)}, {x}, {}});
  cases.push_back({"add", OpKind::kAdd, {}, {normal(x, 15), normal(x, 16)}, {x}, {}});
  cases.push_back({"dropout",
                   OpKind::kDropout,
                   DropoutParams{0.2F, 9},
                   {normal(x, 17)},
                   {x},
                   {false, 1.0, random_key_of(1, 2, 3)}});
  const int64_t d = small ? 4 : 20;
  const Shape rotated{2, small ? 3 : 70, 3 * d};
  for (const bool inverse : {false, true}) {
    cases.push_back({inverse ? "rope_inverse" : "rope",
                     OpKind::kRope,
                     RopeParams{d, inverse},
                     {normal(rotated, 18), rope_table(rotated[1] + 2, d)},
                     {rotated},
                     {}});
  }
}

void add_head(std::vector<OpCase>& cases, bool small) {
  const Shape x = small ? Shape{2, 4, 3} : Shape{2, 150, 40};
  const int64_t vocabulary = small ? 6 : 301;
  Operand labels = integers({x[0], x[1]}, static_cast<int32_t>(vocabulary), 19, true);
  cases.push_back({"head",
                   OpKind::kHeadLoss,
                   HeadParams{},
                   {normal(x, 20), normal({vocabulary, x[2]}, 21, 0.3), labels},
                   {Shape{1}},
                   {}});
}

}  // namespace

std::vector<OpCase> forward_cases(bool small) {
  std::vector<OpCase> cases;
  add_embeddings(cases, small);
  add_linears(cases, small);
  add_norms(cases, small);
  add_attention(cases, small);
  add_elementwise(cases, small);
  add_head(cases, small);
  return cases;
}

}  // namespace hetmem::testing_ops
