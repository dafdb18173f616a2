#!/usr/bin/env python3
"""Trains small models on the processor and on a GPU and compares. Called by gpu_check.sh."""

import hashlib
import json
import os
import pathlib
import random
import struct
import subprocess
import sys
import tempfile

BINARY = os.environ["HETMEM_BINARY"]
OUT = pathlib.Path(os.environ["OUT"])
STEPS = 12
CLOSE = 1e-5  # relative, of losses in fp32
VOCABULARY = 512

MODELS = {
    "gpt2": {"model_type": "gpt2", "vocab_size": VOCABULARY, "n_positions": 128, "n_embd": 128,
             "n_layer": 4, "n_head": 4, "resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1},
    "llama": {"model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": 128,
              "intermediate_size": 352, "num_hidden_layers": 4, "num_attention_heads": 8,
              "num_key_value_heads": 2, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
              "rope_theta": 10000.0, "tie_word_embeddings": False},
}
GPT2_124M = {"model_type": "gpt2", "vocab_size": 50257, "n_positions": 1024, "n_embd": 768,
             "n_layer": 12, "n_head": 12, "resid_pdrop": 0.0, "embd_pdrop": 0.0,
             "attn_pdrop": 0.0}


def hetmem(*arguments):
    environment = dict(os.environ, LD_LIBRARY_PATH=os.environ["HETMEM_LIBRARY_PATH"],
                       XDG_CACHE_HOME=str(OUT / "cache"))
    try:
        run = subprocess.run([BINARY, *map(str, arguments)], env=environment, text=True,
                             capture_output=True, timeout=60)
    except subprocess.TimeoutExpired as error:
        sys.exit(f"hetmem {' '.join(map(str, arguments))}\nhangs: {error.stdout} {error.stderr}")
    if run.returncode != 0:
        sys.exit(f"hetmem {' '.join(map(str, arguments))}\nexit {run.returncode}: {run.stderr}")
    return run.stdout


def write_tokens(path):
    """A walk in which the next token is near the last: there is something to learn."""
    draw = random.Random(3)
    tokens, at = [], 0
    for _ in range(100000):
        at = (at * 5 + draw.randrange(8)) % VOCABULARY
        tokens.append(at)
    header = [20240520, 1, len(tokens)] + [0] * 253
    path.write_bytes(struct.pack("<256i", *header) + struct.pack(f"<{len(tokens)}H", *tokens))


class Case:
    def __init__(self, folder, config, data, steps, sequence, dtype="fp32"):
        self.folder, self.steps = folder, steps
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        self.base = ["--model", folder, "--from-scratch", "--compute-dtype", dtype,
                     "--host-memory", "8GiB", "--sequence-length", sequence, "--batch-size", 4,
                     "--gradient-accumulation-steps", 2, "--learning-rate", "1e-4"]
        self.data = data

    def plan(self, *more):
        return json.loads(hetmem("plan", *self.base, "--device", "cuda", "--json", *more))

    def train(self, name, device, memory):
        out = self.folder / name
        hetmem("train", *self.base, "--data", self.data, "--steps", self.steps, "--device", device,
               "--device-memory", memory, "--out", out, "--log-format", "json")
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        weights = hashlib.sha256((out / "final/model.safetensors").read_bytes()).hexdigest()
        return {"losses": [line["loss"] for line in lines],
                "norms": [line["grad_norm"] for line in lines], "weights": weights,
                "budget": memory, "last": lines[-1],
                "tokens_per_second": max(line["tokens_per_second"] for line in lines)}

    def budgets(self):
        plan = self.plan("--device-memory", "16GiB")
        least, most = plan["smallest_device_memory"], plan["tiers"]["device"]["peak"]
        return {"unlimited": 16 << 30, "middle": (least + most) // 2, "smallest": least}


def apart(values, expected):
    return max(abs(a - b) / abs(b) for a, b in zip(values, expected, strict=True))


def check(name, case, failures, close=CLOSE):
    """`close`: relative, of losses from the processor's."""
    cpu = case.train("cpu", "cpu", "4GiB")
    runs = {budget: case.train(budget, "cuda", memory)
            for budget, memory in case.budgets().items()}
    free = runs["unlimited"]
    result = {"losses_apart": apart(free["losses"], cpu["losses"]),
              "norms_apart": apart(free["norms"], cpu["norms"]), "losses_cpu": cpu["losses"],
              "losses_cuda": free["losses"], "runs": {}}
    if not result["losses_apart"] <= close:
        failures.append(f"{name}: losses are {result['losses_apart']:.2e} apart\n  cpu  "
                        f"{cpu['losses']}\n  cuda {free['losses']}")
    if not free["losses"][-1] < free["losses"][0]:
        failures.append(f"{name}: the loss does not fall: {free['losses']}")
    for budget, run in runs.items():
        same = {key: run[key] == free[key] for key in ("losses", "norms", "weights")}
        used = run["last"]["memory"]["device"]
        result["runs"][budget] = {**same, "device": used, "traffic": run["last"]["traffic"],
                                  "exposed_copy_seconds": run["last"]["exposed_copy_seconds"],
                                  "seconds": run["last"]["seconds"],
                                  "tokens_per_second": run["tokens_per_second"]}
        if not all(same.values()):
            failures.append(f"{name}: {budget} differs from unlimited: {same}\n"
                            f"  {run['losses']}\n  {free['losses']}")
        if used["peak"] > used["budget"]:
            failures.append(f"{name}: {budget} uses {used}")
        print(f"{name:10} {budget:10} device {used['peak'] / 2**20:8.1f} of "
              f"{used['budget'] / 2**20:8.1f} MiB, to device "
              f"{run['last']['traffic']['to_device'] / 2**20:7.2f} MiB a step, "
              f"{run['tokens_per_second']:9.0f} tok/s, same bits: {all(same.values())}", flush=True)
    small = result["runs"]["smallest"]["traffic"]["to_device"]
    if not small > result["runs"]["unlimited"]["traffic"]["to_device"]:
        failures.append(f"{name}: no weights moved at the smallest budget")
    print(f"{name:10} losses are {result['losses_apart']:.1e} from the processor's, norms "
          f"{result['norms_apart']:.1e}; {free['losses'][0]:.4f} to {free['losses'][-1]:.4f}",
          flush=True)
    return result


def large(folder, data, failures):
    case = Case(folder, GPT2_124M, data, 6, 512)
    budgets = case.budgets()
    runs = {name: case.train(name, "cuda", budgets[name]) for name in ("unlimited", "smallest")}
    for name, run in runs.items():
        last = run["last"]
        print(f"gpt2-124m {name:10} device {last['memory']['device']['peak'] / 2**20:8.1f} MiB, "
              f"to device {last['traffic']['to_device'] / 2**20:8.1f} MiB, to host "
              f"{last['traffic']['to_host'] / 2**20:8.1f} MiB a step, "
              f"{run['tokens_per_second']:8.0f} tok/s, exposed {last['exposed_copy_seconds']:.4f} "
              f"of {last['seconds']:.4f} s", flush=True)
    if runs["smallest"]["losses"] != runs["unlimited"]["losses"]:
        failures.append("gpt2-124m: the budget changes losses")
    return {name: {"last": run["last"], "losses": run["losses"],
                   "tokens_per_second": run["tokens_per_second"]} for name, run in runs.items()}


def main():
    failures, results = [], {}
    with tempfile.TemporaryDirectory() as temporary:
        root = pathlib.Path(temporary)
        data = root / "tokens.bin"
        write_tokens(data)
        results["doctor"] = json.loads(hetmem("doctor", "--measure", "--json"))
        print(json.dumps(results["doctor"]["rates"]), flush=True)
        for name, config in MODELS.items():
            results[name] = check(name, Case(root / name, config, data, STEPS, 64), failures)
            # A sum that differs in its last bit may round to the next bf16: what is asked for is
            # that devices differ by less than bf16 itself changes.
            rounded = Case(root / f"{name}-bf16", config, data, STEPS, 64, "bf16")
            own = apart(rounded.train("own", "cpu", "4GiB")["losses"], results[name]["losses_cpu"])
            results[name + "-bf16"] = check(name + "-bf16", rounded, failures, own)
        if os.environ.get("LARGE") == "1":
            results["gpt2-124m"] = large(root / "large", data, failures)
    results["failures"] = failures
    (OUT / "gpu_check.json").write_text(json.dumps(results, indent=1) + "\n")
    for failure in failures:
        print("FAILED:", failure)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
