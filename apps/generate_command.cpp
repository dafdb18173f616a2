#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <string_view>

#include "apps/commands.h"
#include "io/tokenizer.h"

namespace hetmem::apps {
namespace {

// Text goes out as it comes.
void write_text(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  flush_output();
}

// What was written stays: every token has been flushed.
extern "C" void end_by_signal(int number) { _exit(128 + number); }

}  // namespace

int generate(const GenerateConfig& config) {
  std::signal(SIGINT, end_by_signal);
  std::signal(SIGTERM, end_by_signal);
  Generator generator(config.model, config.machine);
  const Tokenizer tokenizer = Tokenizer::load(config.model);
  generator.start(tokenizer.encode_prompt(*config.prompt), config.max_new_tokens, config.sampling);
  StreamDecoder decoder(tokenizer);
  while (const std::optional<int32_t> id = generator.next()) write_text(decoder.next(*id));
  write_text(decoder.finish() + "\n");
  if (generator.out_of_positions()) {
    std::fprintf(stderr, "hetmem: stopped at the %lld positions of the model\n",
                 static_cast<long long>(generator.model().positions));
  }
  return 0;
}

}  // namespace hetmem::apps
