"""Fine-tunes a model folder on text under a memory budget.

    python examples/fine_tune.py --model SmolLM2-135M --data texts/ --device-memory 1GiB --host-memory 2GiB
    python examples/fine_tune.py       # a small model, from scratch, on Python's own sources
"""

import argparse
import pathlib
import sysconfig
import tempfile

import hetmem
from tiny_model import write_tiny_model

arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
arguments.add_argument("--model", help="a Hugging Face folder")
arguments.add_argument("--data", nargs="+", help="text, .jsonl, token files, folders")
arguments.add_argument("--device-memory", default="64MiB")
arguments.add_argument("--host-memory", default="1GiB")
arguments.add_argument("--steps", type=int, default=30)
arguments.add_argument("--out", help="where the tuned model goes")
options = arguments.parse_args()

with tempfile.TemporaryDirectory() as scratch:
    model = options.model or write_tiny_model(pathlib.Path(scratch) / "model")
    library = pathlib.Path(sysconfig.get_paths()["stdlib"])
    data = options.data or sorted(library.glob("json/*.py"))
    with hetmem.Trainer(
        model=model, from_scratch=options.model is None, device_memory=options.device_memory,
        host_memory=options.host_memory, batch_size=4, sequence_length=128, steps=options.steps,
        learning_rate=3e-4 if options.model else 3e-3, lr_scheduler_type="cosine", warmup_steps=0.1,
    ) as trainer:
        print(trainer.plan)
        result = trainer.train(data)
        print(f"loss {result.losses[0]:.3f} at first, {result.loss:.3f} at last")
        print(trainer.generate("def read(", max_new_tokens=40, temperature=0.7))
        if options.out:
            trainer.save(options.out)
