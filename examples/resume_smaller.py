"""Stops a run and resumes it with less memory: the losses are those of the run that was not stopped, to
the last bit.

    python examples/resume_smaller.py
"""

import pathlib
import sysconfig
import tempfile

import hetmem
from tiny_model import write_tiny_model

with tempfile.TemporaryDirectory() as scratch:
    scratch = pathlib.Path(scratch)
    model = write_tiny_model(scratch / "model")
    library = pathlib.Path(sysconfig.get_paths()["stdlib"])
    tokens = hetmem.load_tokens(library / "json", model=model, glob="*.py")
    options = dict(model=model, from_scratch=True, batch_size=2, sequence_length=64, steps=12,
                   learning_rate=1e-3, host_memory="256MiB")

    with hetmem.Trainer(**options, device_memory="64MiB") as trainer:
        whole = trainer.train(tokens).losses

    with hetmem.Trainer(**options, device_memory="64MiB") as trainer:
        losses = trainer.train(tokens, callbacks=lambda result: result.step < 5).losses
        trainer.save(scratch / "checkpoint", checkpoint=True)
        needed = trainer.plan.smallest_device_memory

    resume = scratch / "checkpoint"
    with hetmem.Trainer(**options, device_memory=needed, resume_from_checkpoint=resume) as trainer:
        print(f"resumed after step {trainer.steps_done} with {trainer.plan.tiers!r}")
        losses += trainer.train(tokens).losses

    print("the same losses, bit for bit:", losses == whole)
    if losses != whole:
        raise SystemExit(1)
