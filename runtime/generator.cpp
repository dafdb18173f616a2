#include "runtime/generator.h"

#include <algorithm>
#include <map>
#include <vector>

#include "core/byte_size.h"
#include "core/error.h"
#include "device/device.h"
#include "device/thread_pool.h"
#include "models/models.h"
#include "runtime/cached_forward.h"
#include "runtime/model_weights.h"
#include "runtime/step_plan.h"

namespace hetmem {
namespace {

// Tokens of a prompt that go through the model at once: enough that the weights are read rarely,
// few enough that activations stay small.
constexpr int64_t kPrefillTokens = 256;
constexpr int64_t kLoadBlock = int64_t{1} << 20;  // elements that are read at once
constexpr int64_t kFloatBytes = sizeof(float);

TrainConfig config_of(const std::string& folder, const GeneratorOptions& options) {
  TrainConfig config;
  config.model = folder;
  config.device = options.device;
  config.device_memory = options.device_memory;
  config.threads = options.threads;
  return config;
}

int64_t token_bytes(int64_t prompt_tokens) {
  return std::min(prompt_tokens, kPrefillTokens) * static_cast<int64_t>(sizeof(int32_t));
}

int64_t rope_bytes(const ModelConfig& model, int64_t positions) {
  if (model.family == ModelFamily::kGpt2) return 0;
  return positions * model.head_dim * static_cast<int64_t>(sizeof(float));
}

}  // namespace

struct Generator::State {
  State(const std::string& folder, const GeneratorOptions& options, WeightReader reader);

  void check_prompt() const;
  void plan_passes();
  void check_budget() const;
  void load_weights();
  void copy_to_device(size_t weight, int64_t first, const float* data, int64_t count);
  void reserve();
  void run(std::span<const int32_t> ids, bool logits);
  void read_prompt();

  TrainConfig config;
  ModelConfig model;
  GenerationConfig generation;
  WeightReader weight_reader;
  SamplingOptions sampling;

  std::vector<int32_t> sequence;  // the prompt and what followed
  int64_t prompt_tokens = 0;
  int64_t max_new_tokens = 0;
  int64_t cached = 0;    // tokens that the model has read
  int64_t capacity = 0;  // tokens that the cache can hold
  bool ended = true;
  bool out_of_positions = false;
  std::map<int64_t, CachedForward> passes;  // by tokens at once
  const MemoryPlan* plan = nullptr;         // of the pass with the largest pool

  ThreadPool threads;
  std::unique_ptr<Device> where;  // after the pool it uses, before all that is on it
  Tier device;
  Buffer weights;
  KeyValueCache cache;
  Buffer pool;
  Buffer tokens;
  Buffer rope;
  ForwardMemory memory;
  std::vector<float> logits;
  std::unique_ptr<Stream> compute;  // it ends before the memory that it works on
};

Generator::State::State(const std::string& folder, const GeneratorOptions& options,
                        WeightReader reader)
    : config(config_of(folder, options)),
      model(load_model_config(folder)),
      generation(load_generation_config(folder, model)),
      weight_reader(std::move(reader)),
      threads(static_cast<int>(options.threads)),
      where(make_device(device_of(config), threads)),
      device("device", budgets_of(config).device, where->memory()),
      compute(where->make_stream("compute")) {}

void Generator::State::check_prompt() const {
  if (prompt_tokens > model.positions) {
    throw Error(ErrorKind::kBadInput,
                "the prompt has " + std::to_string(prompt_tokens) + " tokens, the model has " +
                    std::to_string(model.positions) + " positions; give a shorter prompt");
  }
  for (const int32_t id : sequence) {
    if (id >= 0 && id < model.vocabulary) continue;
    throw Error(ErrorKind::kBadInput, "token id " + std::to_string(id) +
                                          " of the prompt is outside the vocabulary of " +
                                          std::to_string(model.vocabulary) +
                                          "; does the tokenizer belong to this model?");
  }
}

void Generator::State::plan_passes() {
  passes.clear();
  const int64_t first = std::min(prompt_tokens, kPrefillTokens);
  for (const int64_t count : {first, prompt_tokens % kPrefillTokens, int64_t{1}}) {
    if (count > 0) passes.try_emplace(count, model, count, where->id().kind);
  }
  plan = nullptr;
  for (const auto& [count, pass] : passes) {
    const MemoryPlan& other = pass.memory_plan();
    if (plan == nullptr || total(other.pool) > total(plan->pool)) plan = &other;
  }
}

void Generator::State::check_budget() const {
  const int64_t needed = total(plan->pool) + plan->weights.bytes +
                         KeyValueCache::bytes(model, capacity) + token_bytes(prompt_tokens) +
                         rope_bytes(model, capacity);
  if (needed <= device.budget()) return;
  throw Error(ErrorKind::kDoesNotFit,
              "generating up to " + std::to_string(capacity) + " tokens, prompt included, needs " +
                  format_byte_size(needed) + " of device memory, the budget is " +
                  format_byte_size(device.budget()) +
                  "; the smallest --device-memory that works is " + std::to_string(needed));
}

void Generator::State::copy_to_device(size_t weight, int64_t first, const float* data,
                                      int64_t count) {
  compute->copy(static_cast<char*>(memory.weights[weight].data) + first * kFloatBytes, data,
                count * kFloatBytes, CopyDirection::kToDevice);
  compute->synchronize();
}

void Generator::State::load_weights() {
  if (weights.data() != nullptr) return;
  Buffer loaded(device, plan->weights.bytes, MemoryKind::kWeights, MemorySpace::kDevice);
  const std::vector<WeightSpec> specs = weight_specs(model);
  memory.weights.clear();
  for (size_t i = 0; i < specs.size(); ++i) {
    memory.weights.push_back(
        loaded.view(plan->weights.offsets[i], DType::kFloat32, specs[i].shape));
  }
  if (weight_reader) {
    for (size_t i = 0; i < specs.size(); ++i) {
      int64_t first = 0;
      weight_reader(i, [&](const float* data, int64_t count) {
        copy_to_device(i, first, data, count);
        first += count;
      });
    }
    weights = std::move(loaded);
    return;
  }
  std::vector<float> block(static_cast<size_t>(kLoadBlock));
  fill_weights(model, config, specs, [&](size_t index, const FloatSource& source) {
    const int64_t elements = specs[index].shape.elements();
    for (int64_t first = 0; first < elements; first += kLoadBlock) {
      const int64_t count = std::min(kLoadBlock, elements - first);
      source(block.data(), first, count);
      copy_to_device(index, first, block.data(), count);
    }
  });
  weights = std::move(loaded);
}

void Generator::State::reserve() {
  cache = KeyValueCache();
  for (Buffer* buffer : {&pool, &tokens, &rope}) *buffer = Buffer();
  cache = KeyValueCache(model, capacity, device);
  pool = Buffer(device, plan->pool, MemorySpace::kDevice);
  tokens = Buffer(device, token_bytes(prompt_tokens), MemoryKind::kStaging, MemorySpace::kDevice);
  rope = Buffer(device, rope_bytes(model, capacity), MemoryKind::kStaging, MemorySpace::kDevice);
  memory.cache = &cache;
  memory.pool = &pool;
  memory.tokens = tokens.view(0, DType::kInt32, {std::min(prompt_tokens, kPrefillTokens)});
  if (rope.bytes() > 0) {
    const std::vector<float> rows = rope_table(model, capacity);
    memory.rope = rope.view(0, DType::kFloat32, {capacity, model.head_dim});
    compute->copy(memory.rope.data, rows.data(), memory.rope.bytes(), CopyDirection::kToDevice);
    compute->synchronize();
  }
  for (auto& [count, pass] : passes) pass.bind(memory);
  logits.resize(static_cast<size_t>(model.vocabulary));
}

// Passes `ids` through the model at the end of what it has read.
void Generator::State::run(std::span<const int32_t> ids, bool with_logits) {
  const CachedForward& pass = passes.at(static_cast<int64_t>(ids.size()));
  compute->copy(memory.tokens.data, ids.data(), static_cast<int64_t>(ids.size_bytes()),
                CopyDirection::kToDevice);
  pass.run(*compute, cached, with_logits);
  if (with_logits)
    compute->copy(logits.data(), pass.logits().data, pass.logits().bytes(), CopyDirection::kToHost);
  compute->synchronize();
  cached += static_cast<int64_t>(ids.size());
}

void Generator::State::read_prompt() {
  while (cached < prompt_tokens) {
    const int64_t count = std::min(kPrefillTokens, prompt_tokens - cached);
    const auto ids = std::span<const int32_t>(sequence).subspan(static_cast<size_t>(cached),
                                                                static_cast<size_t>(count));
    run(ids, cached + count == prompt_tokens);
  }
}

Generator::Generator(const std::string& folder, const GeneratorOptions& options,
                     WeightReader weights)
    : state_(std::make_unique<State>(folder, options, std::move(weights))) {}
Generator::~Generator() = default;
Generator::Generator(Generator&&) noexcept = default;
Generator& Generator::operator=(Generator&&) noexcept = default;

const ModelConfig& Generator::model() const { return state_->model; }
const GenerationConfig& Generator::generation_config() const { return state_->generation; }
bool Generator::out_of_positions() const { return state_->out_of_positions; }

void Generator::start(std::span<const int32_t> prompt, int64_t max_new_tokens,
                      const SamplingOptions& sampling) {
  State& s = *state_;
  check_sampling(sampling);
  HETMEM_ASSERT(max_new_tokens > 0);
  s.sampling = sampling;
  s.max_new_tokens = max_new_tokens;
  s.sequence.assign(prompt.begin(), prompt.end());
  if (s.sequence.empty()) {
    if (!s.generation.bos_token_id) {
      throw Error(ErrorKind::kBadInput,
                  "the prompt is empty and the model names no bos_token_id to begin with; give a "
                  "--prompt");
    }
    s.sequence.push_back(static_cast<int32_t>(*s.generation.bos_token_id));
  }
  s.prompt_tokens = static_cast<int64_t>(s.sequence.size());
  s.check_prompt();
  // The last token is not read.
  const int64_t room = s.model.positions - s.prompt_tokens;
  s.capacity = s.prompt_tokens + std::min(room, max_new_tokens - 1);
  s.cached = 0;
  s.ended = s.out_of_positions = false;
  s.plan_passes();
  s.check_budget();
  s.load_weights();
  s.reserve();
}

std::optional<int32_t> Generator::next() {
  State& s = *state_;
  const auto length = static_cast<int64_t>(s.sequence.size());
  if (s.ended || length - s.prompt_tokens == s.max_new_tokens) return std::nullopt;
  if (s.cached == s.model.positions) {
    s.out_of_positions = s.ended = true;
    return std::nullopt;
  }
  if (s.cached == 0) {
    s.read_prompt();
  } else {
    s.run({&s.sequence.back(), 1}, true);
  }
  penalise_repetition(s.logits, s.sequence, s.generation.repetition_penalty);
  const int32_t id = sample(s.logits, s.sampling, length);
  s.sequence.push_back(id);
  const std::vector<int64_t>& eos = s.generation.eos_token_ids;
  s.ended = std::find(eos.begin(), eos.end(), id) != eos.end();
  return id;
}

}  // namespace hetmem
