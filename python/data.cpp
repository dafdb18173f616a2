// Tokenizers and token streams for Python.
#include <algorithm>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/error.h"
#include "io/text_data.h"
#include "io/token_dataset.h"
#include "io/tokenizer.h"
#include "python/bindings.h"
#include "runtime/prepared_data.h"

namespace hetmem::python {
namespace {

TokenArray array_of(const std::vector<int32_t>& ids) {
  TokenArray array(static_cast<py::ssize_t>(ids.size()));
  std::copy(ids.begin(), ids.end(), array.mutable_data());
  return array;
}

// A stream of tokens in files. Text lies tokenised in a folder that goes with this object.
class TokenStream {
 public:
  TokenStream(const std::vector<std::string>& paths, const std::string& glob,
              const std::string& model_folder) {
    constexpr int64_t kAnyId = std::numeric_limits<int32_t>::max();
    if (model_folder.empty()) {
      files_ = data_files(paths, glob, "load_tokens");
      for (const std::string& file : files_) require_tokens(file);
      data_.emplace(files_, 1, kAnyId);
      return;
    }
    const ModelConfig model = load_model_config(model_folder);
    prepared_.emplace(paths, glob, "load_tokens", model_folder, model);
    files_ = prepared_->token_files();
    data_.emplace(files_, 1, model.vocabulary);
  }

  int64_t size() const { return data_->tokens(); }
  const std::vector<std::string>& files() const { return files_; }
  void read(int64_t first, std::span<int32_t> tokens) const { data_->read(first, tokens); }

 private:
  static void require_tokens(const std::string& file) {
    if (is_token_file(file)) return;
    throw Error(ErrorKind::kBadInput,
                file +
                    " is text: its tokens are those of a model, give model=, a folder with a "
                    "tokenizer.json");
  }

  std::optional<PreparedData> prepared_;
  std::vector<std::string> files_;
  std::optional<TokenDataset> data_;
};

// A token file of ids of a model.
void write_tokens(const std::string& path, const TokenArray& tokens, int64_t vocabulary) {
  const std::span<const int32_t> ids = span_of(tokens);
  const py::gil_scoped_release released;
  TokenFileWriter writer(path, vocabulary);
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < vocabulary) continue;
    throw Error(ErrorKind::kBadInput,
                "token id " + std::to_string(ids[i]) + " at position " + std::to_string(i) +
                    " of the data is outside the vocabulary of " + std::to_string(vocabulary) +
                    "; was it made with another tokenizer?");
  }
  writer.append(ids);
  writer.finish();
}

void bind_tokenizer(py::module_& module) {
  using Unlocked = py::call_guard<py::gil_scoped_release>;
  py::class_<Tokenizer>(module, "Tokenizer")
      .def(py::init([](const std::string& folder) { return Tokenizer::load(folder); }), Unlocked())
      .def("encode",
           [](const Tokenizer& tokenizer, const std::string& text, bool special) {
             std::vector<int32_t> ids;
             {
               const py::gil_scoped_release released;
               ids = special ? tokenizer.encode_prompt(text) : tokenizer.encode(text);
             }
             return array_of(ids);
           })
      .def("decode",
           [](const Tokenizer& tokenizer, const TokenArray& ids, bool skip_special) {
             return py::bytes(tokenizer.decode(span_of(ids), skip_special));
           })
      .def("id_of", [](const Tokenizer& tokenizer,
                       const std::string& token) { return tokenizer.id_of(token); })
      .def("vocabulary", &Tokenizer::vocabulary);
}

}  // namespace

void bind_data(py::module_& module) {
  bind_tokenizer(module);
  py::class_<TokenStream>(module, "TokenStream")
      .def(py::init<const std::vector<std::string>&, const std::string&, const std::string&>(),
           py::call_guard<py::gil_scoped_release>())
      .def("size", &TokenStream::size)
      .def("files", &TokenStream::files)
      .def("read", [](const TokenStream& stream, int64_t first, int64_t count) {
        TokenArray tokens(count);
        const std::span<int32_t> into(tokens.mutable_data(), static_cast<size_t>(count));
        const py::gil_scoped_release released;
        stream.read(first, into);
        return tokens;
      });
  module.def("write_tokens", &write_tokens);
  // The windows of step `step`, in the order in which a run takes them.
  module.def("windows_of_step",
             [](int64_t windows, int64_t per_step, bool shuffle, uint64_t seed, int64_t step) {
               const WindowSampler sampler(windows, per_step, shuffle, seed);
               std::vector<int64_t> taken;
               for (int64_t i = 0; i < per_step; ++i) taken.push_back(sampler.window(step, i));
               return taken;
             });
}

}  // namespace hetmem::python
