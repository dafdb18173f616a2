"""Asks whether a 7B model can be trained on three machines, and how fast: nothing of it has to be here.

    python examples/plan_7b.py [MACHINE.json...]
"""

import json
import pathlib
import sys
import tempfile

import hetmem

CONFIG = {
    "model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
    "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "tie_word_embeddings": False, "hidden_act": "silu", "torch_dtype": "bfloat16",
}

root = pathlib.Path(__file__).resolve().parent.parent
machines = sys.argv[1:] or sorted((root / "benchmarks" / "machines").glob("*.json"))
with tempfile.TemporaryDirectory() as folder:
    (pathlib.Path(folder) / "config.json").write_text(json.dumps(CONFIG))
    for machine in machines:
        plan = hetmem.plan(folder, machine=machine, device="cpu", compute_dtype="fp32", batch_size=1,
                           sequence_length=1024, gradient_accumulation_steps=8)
        name = pathlib.Path(machine).stem
        if plan.fits:
            tokens = 8 * 1024 / plan.step_seconds
            print(f"{name}: {plan.step_seconds:.1f} s a step ({tokens:.0f} tokens/s), limited by "
                  f"{plan.limited_by}; {plan.tiers!r}")
        elif plan.smallest_device_memory is not None:
            print(f"{name}: does not fit; it would with {plan.smallest_device_memory} bytes of device memory")
        else:
            print(f"{name}: does not fit, whatever the device memory: {plan.tiers.host!r} of host memory")
