#include <core/byte_size.h>
#include <runtime/trainer.h>

#include <iostream>

int main(int argc, char** argv) {
  hetmem::TrainConfig config;
  config.model = argc > 1 ? argv[1] : ".";
  config.from_scratch = true;
  config.batch_size = 1;
  config.sequence_length = 4;
  hetmem::Trainer trainer(config, 1);
  const int tokens[] = {1, 2, 3, 4, 5};
  std::cout << trainer.parameters() << " " << trainer.step(tokens).loss << "\n";
}
