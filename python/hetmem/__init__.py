"""hetmem: fine-tune language models that are larger than one memory, on one machine.

    import hetmem

    with hetmem.Trainer(model="SmolLM2-135M", device_memory="1GiB", host_memory="2GiB") as trainer:
        print(trainer.plan)                                      # what fits where, before anything runs
        trainer.train("texts/", steps=100)
        trainer.save("tuned")

Losses and weights are those of the command line, bit for bit, whatever the budgets.
"""

from hetmem._hetmem import CorruptData, NonFinite, OutOfBudget, __version__
from hetmem._options import option_table
from hetmem._results import EvalResult, Memory, Plan, StepResult, Tier, Traffic, TrainResult
from hetmem._data import Tokenizer, Tokens, load_tokens
from hetmem._trainer import Parameters, Trainer, generate, plan

__all__ = [
    "CorruptData", "EvalResult", "Memory", "NonFinite", "OutOfBudget", "Parameters", "Plan",
    "StepResult", "Tier", "Tokenizer", "Tokens", "Traffic", "TrainResult", "Trainer", "__version__",
    "generate", "load_tokens", "option_table", "plan",
]
