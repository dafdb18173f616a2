"""hetmem beside PyTorch on this machine: whole steps, memory, the optimizer (beside DeepSpeed's, too),
start-up, what Python adds; its tokenizer beside Hugging Face's, its disk tier beside fio. Both sides run in turns, the best of several counts; the result goes to
benchmarks/results/ as JSON.

    .venv/bin/python benchmarks/run.py [--rounds N] [--out FILE] [--only PART...]
"""

import argparse
import datetime
import json
import os
import pathlib
import re
import subprocess
import sys
import sysconfig
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
HETMEM = os.environ.get("HETMEM_BINARY", str(ROOT / "build" / "hetmem"))
WORKER = str(ROOT / "benchmarks" / "torch_worker.py")
THREADS = len(os.sched_getaffinity(0))
STEPS = 5

GPT2 = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": 50257,
        "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12, "resid_pdrop": 0.0,
        "embd_pdrop": 0.0, "attn_pdrop": 0.0}
SMOLLM2 = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 49152,
           "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
           "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192,
           "rms_norm_eps": 1e-5, "rope_theta": 100000.0, "tie_word_embeddings": True,
           "hidden_act": "silu"}
CASES = [("gpt2-124m", GPT2, 4, 64), ("smollm2-135m", SMOLLM2, 2, 256)]

MAKE_INPUTS = """
import json, sys, numpy as np, torch, transformers
folder, vocabulary = sys.argv[1], int(sys.argv[2])
torch.manual_seed(0)
config = transformers.AutoConfig.from_pretrained(folder)
transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
ids = np.random.RandomState(0).randint(0, vocabulary, 50000).astype(np.uint16)
header = np.zeros(256, np.int32)
header[:3] = (20240520, 1, len(ids))
open(folder + "/tokens.bin", "wb").write(header.tobytes() + ids.tobytes())
"""


def measured(*words, stdin=None):
    """Runs a program: its output and its peak resident bytes. (This process is small: what a child
    inherits of it before it becomes another program does not show.)"""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as given:
        given.write(stdin or "")
        given.seek(0)
        process = subprocess.Popen(list(map(str, words)), stdin=given, stdout=out,
                                   stderr=subprocess.PIPE)
        errors = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            sys.exit(f"{words[0]} failed: {errors.decode()}")
        out.seek(0)
        return out.read(), usage.ru_maxrss * 1024


def torch_side(*words, stdin=None):
    out, peak = measured(sys.executable, WORKER, *words, stdin=stdin)
    return json.loads(out.splitlines()[-1]), peak


def hetmem_step(folder, batch, length, out, dtype):
    text, peak = measured(
        HETMEM, "train", "--model", folder, "--data", f"{folder}/tokens.bin", "--out", out,
        "--overwrite-output-dir", "--batch-size", batch, "--sequence-length", length, "--steps",
        STEPS, "--shuffle", "false", "--threads", THREADS, "--compute-dtype", dtype, "--log-format", "json")
    lines = [json.loads(line) for line in text.splitlines()]
    return {"losses": [line["loss"] for line in lines],
            "tokens_per_second": max(line["tokens_per_second"] for line in lines)}, peak


def bench_steps(name, config, batch, length, rounds, native_bf16):
    sides = ["hetmem", "eager", "compile"] + ["bf16"] * native_bf16
    best, peaks, losses = {}, {}, {}
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "config.json").write_text(json.dumps(config))
        measured(sys.executable, "-c", MAKE_INPUTS, folder, config["vocab_size"])
        for _ in range(rounds):
            for side in sides:
                if side in ("hetmem", "bf16"):
                    dtype = "bf16" if side == "bf16" else "fp32"
                    result, peak = hetmem_step(folder, batch, length, folder + "/out", dtype)
                else:
                    result, peak = torch_side("step", folder, folder + "/tokens.bin", batch, length,
                                              STEPS, side, THREADS)
                best[side] = max(best.get(side, 0), result["tokens_per_second"])
                peaks[side] = min(peaks.get(side, 1 << 62), peak)
                losses[side] = result["losses"]
    case = {"batch_size": batch, "sequence_length": length, "threads": THREADS}
    other = max(("eager", "compile"), key=best.get)
    difference = max(abs(a - b) / b for a, b in zip(losses["hetmem"], losses["eager"]))
    results = [
        result_of(f"{name} whole step", best["hetmem"], "tokens/s", f"PyTorch {other}",
                  best[other], best["hetmem"] / best[other],
                  case | {f"torch_{s}": best[s] for s in ("eager", "compile")}),
        result_of(f"{name} peak RSS", peaks["hetmem"], "bytes", f"PyTorch {other}", peaks[other],
                  peaks[other] / peaks["hetmem"],
                  case | {f"torch_{s}": peaks[s] for s in ("eager", "compile")}),
        result_of(f"{name} losses of {STEPS} steps", difference, "largest relative difference",
                  "bar", 1e-4, 1e-4 / max(difference, 1e-300), case | {"losses": losses}),
    ]
    if native_bf16:
        results.append(result_of(f"{name} whole step in bf16", best["bf16"], "tokens/s",
                                 "hetmem fp32", best["hetmem"], best["bf16"] / best["hetmem"], case))
    return results


def result_of(name, value, unit, reference, reference_value, ratio, parameters):
    result = {"name": name, "value": value, "unit": unit, "reference": reference,
              "reference_value": reference_value, "ratio": ratio, "parameters": parameters}
    print(f"{name:<44} {value:>16.6g} {unit:<12} {reference_value:>16.6g} {reference:<26}"
          f" {ratio:>8.2f}x", flush=True)
    return result


def bench(*words):
    return json.loads(measured(HETMEM, "bench", *words, "--json", "--threads", THREADS)[0])


def bench_bound(rounds):
    """Whole steps beside the bound: each GEMM at the best of the seam, oneDNN, OpenBLAS and PyTorch,
    optimizer and norm bytes at the bandwidth of a plain loop."""
    gemms = bench("gemm", "--repeats", 5)["results"]
    shapes = []
    for entry in gemms:
        found = re.search(r" (\d+)x(\d+)x(\d+) ([TN])([TN])$", entry["name"])
        if found:
            m, n, k, a, b = found.groups()
            shapes.append((entry, [int(m), int(n), int(k), a == "T", b == "T"]))
    torch, _ = torch_side("gemm", THREADS, stdin=json.dumps([shape for _, shape in shapes]))
    bound = {}
    for (entry, (m, n, k, _, _)), seconds in zip(shapes, torch["seconds"]):
        work = 2e-9 * m * n * k
        least = min(work / entry["value"], work / entry["reference_value"], seconds)
        case = entry["name"].split()[0]
        bound[case] = bound.get(case, 0) + entry["parameters"]["calls_per_step"] * least
    results = []
    steps = [bench("step", "--repeats", 5)["results"] for _ in range(rounds)]
    for entries in zip(*steps):
        best = min(entries, key=lambda entry: entry["parameters"]["seconds"])
        case = best["name"].split()[0]
        least = min(bound[case], *(e["parameters"]["gemm_bound_seconds"] for e in entries))
        seconds = least + min(e["parameters"]["optimizer_bound_seconds"] for e in entries)
        tokens = best["parameters"]["batch_size"] * best["parameters"]["sequence_length"]
        results.append(result_of(
            f"{case} whole step of the bound", best["value"], "tokens/s", "GEMMs and bytes",
            tokens / seconds, seconds / best["parameters"]["seconds"],
            best["parameters"] | {"gemm_bound_seconds": least}))
    return results


def bench_adam(rounds):
    results, parameters = [], 100_000_000
    ours, torch, deepspeed = [], [], []
    for _ in range(rounds):
        ours.append(bench("adam", "--repeats", 5)["results"])
        torch.append(torch_side("adam", parameters, 5, THREADS)[0]["seconds"])
        deepspeed.append(torch_side("deepspeed-adam", parameters, 5, THREADS)[0]["seconds"])
    for form in zip(*ours):
        best = max(form, key=lambda entry: entry["ratio"])
        results.append(result_of(best["name"], best["value"], best["unit"], best["reference"],
                                 best["reference_value"], best["ratio"], best["parameters"]))
        seconds = min(entry["parameters"]["seconds"] for entry in form)
        results.append(result_of(best["name"] + " step", seconds, "s", "PyTorch fused", min(torch),
                                 min(torch) / seconds, {"parameters": parameters}))
        results.append(result_of(best["name"] + " beside DeepSpeed", seconds, "s",
                                 "DeepSpeedCPUAdam", min(deepspeed), min(deepspeed) / seconds,
                                 {"parameters": parameters}))
    return results


def bench_disk(rounds):
    """In the folder from which this is run: temporary folders may be in memory."""
    return [result_of(*(entry[key] for key in ("name", "value", "unit", "reference",
                                               "reference_value", "ratio", "parameters")))
            for entry in bench("disk", "--repeats", rounds)["results"]]


def bench_start(smollm2):
    """Seconds from the start of `hetmem train` to the beginning of its first step."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "config.json").write_text(json.dumps(smollm2))
        measured(sys.executable, "-c", MAKE_INPUTS, folder, smollm2["vocab_size"])
        waits = []
        for _ in range(3):
            begin = time.perf_counter()
            process = subprocess.Popen(
                [HETMEM, "train", "--model", folder, "--data", folder + "/tokens.bin", "--out",
                 folder + "/out", "--overwrite-output-dir", "--batch-size", "2",
                 "--sequence-length", "256", "--steps", "1", "--log-format", "json"],
                stdout=subprocess.PIPE, text=True)
            line = json.loads(process.stdout.readline())
            waits.append(time.perf_counter() - begin - line["seconds"])
            process.wait()
        results.append(result_of("train on smollm2-135m, to the first step", min(waits), "s", "bar",
                                 3.0, 3.0 / min(waits), {}))
        for words in (["--help"], ["doctor"], ["plan", "--model", folder]):
            times = []
            for _ in range(5):
                begin = time.perf_counter()
                measured(HETMEM, *words)
                times.append(time.perf_counter() - begin)
            results.append(result_of(f"hetmem {words[0]}", min(times), "s", "bar", 0.3,
                                     0.3 / min(times), {}))
    return results


# Prints the time that the import takes, or what steps take in all beside what they say of themselves.
IMPORT = "import time; begin = time.perf_counter(); import hetmem; print(time.perf_counter() - begin)"
STEPS_OF_PYTHON = """
import sys, time, numpy, hetmem
with hetmem.Trainer(sys.argv[1], from_scratch=True, batch_size=4, sequence_length=64) as trainer:
    batch = numpy.random.RandomState(0).randint(0, 257, trainer.step_shape).astype(numpy.int32)
    for _ in range(5):
        trainer.step(batch)
    begin = time.perf_counter()
    inside = sum(trainer.step(batch).seconds for _ in range(100))
    print((time.perf_counter() - begin) / inside - 1)
"""
SMALL = {"model_type": "llama", "vocab_size": 257, "hidden_size": 128, "intermediate_size": 384,
         "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
         "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 10000.0}


def bench_python(rounds):
    """What Python adds: the import, NumPy's included, and the way in and out of a step of a small
    model."""
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(HETMEM).parent / "python")}

    def least(script, *words):
        return min(float(subprocess.run([sys.executable, "-c", script, *words], env=environment, check=True,
                                        capture_output=True, text=True).stdout)
                   for _ in range(max(rounds, 3)))

    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "config.json").write_text(json.dumps(SMALL))
        imported = least(IMPORT)
        added = least(STEPS_OF_PYTHON, folder)
    return [result_of("import hetmem", imported, "s", "bar", 0.15, 0.15 / imported, {}),
            result_of("Trainer.step, beside the step itself", added, "of a step", "bar", 0.01,
                      0.01 / added, {"model": "llama, 4 layers of 128", "tokens": 256})]


def bench_tokenizer(rounds):
    """One thread each, on the sources of the Python standard library; hetmem reads the vocabulary and
    the text and writes the tokens in its time, tokenizers has both in memory."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import tokenizers

    with tempfile.TemporaryDirectory() as folder:
        measured(sys.executable, ROOT / "scripts" / "make_smollm2.py", folder)
        files = sorted(pathlib.Path(sysconfig.get_paths()["stdlib"]).rglob("*.py"))
        files = [path for path in files if "site-packages" not in path.parts]
        texts = [path.read_text(encoding="utf-8", errors="replace") for path in files]
        lines = pathlib.Path(folder, "texts.jsonl")
        lines.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        size = sum(len(text.encode()) for text in texts) * 1e-6
        tokenizer = tokenizers.Tokenizer.from_file(folder + "/tokenizer.json")
        ours, theirs = [], []
        for _ in range(rounds):
            begin = time.perf_counter()
            measured(HETMEM, "tokenize", "--model", folder, lines, "-o", folder + "/out.bin")
            ours.append(time.perf_counter() - begin)
            begin = time.perf_counter()
            for text in texts:
                tokenizer.encode(text)
            theirs.append(time.perf_counter() - begin)
    return [result_of("tokenize, SmolLM2's vocabulary", size / min(ours), "MB/s", "tokenizers",
                      size / min(theirs), min(theirs) / min(ours), {"megabytes": size})]


def machine():
    doctor = json.loads(measured(HETMEM, "doctor", "--json")[0])
    return {"processor": doctor["processor"], "threads": THREADS,
            "instruction_set": doctor["instruction_set"], "native_bf16": doctor["native_bf16"],
            "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out")
    parts = {case[0]: lambda case=case: bench_steps(*case, options.rounds, about["native_bf16"])
             for case in CASES}
    parts |= {
        "bound": lambda: bench_bound(options.rounds),
        "adam": lambda: bench_adam(options.rounds),
        "disk": lambda: bench_disk(options.rounds),
        "start": lambda: bench_start(SMOLLM2),
        "python": lambda: bench_python(options.rounds),
        "tokenizer": lambda: bench_tokenizer(options.rounds),
    }
    parser.add_argument("--only", nargs="+", choices=parts, default=list(parts),
                        help="measure these; the other results in the file stay")
    options = parser.parse_args()
    about = machine()
    results = [result for part in options.only for result in parts[part]()]
    out = options.out or str(
        ROOT / "benchmarks" / "results" / f"foundation-{about['instruction_set']}.json")
    if len(options.only) < len(parts) and pathlib.Path(out).exists():
        fresh = {result["name"]: result for result in results}
        kept = json.loads(pathlib.Path(out).read_text())["results"]
        results = [fresh.pop(old["name"], old) for old in kept] + list(fresh.values())
    document = {"benchmark": "foundation", "date": datetime.date.today().isoformat(),
                "results": results, "machine": about}
    pathlib.Path(out).parent.mkdir(parents=True, exist_ok=True)
    pathlib.Path(out).write_text(json.dumps(document, indent=1) + "\n")
    print(f"written to {out}")


if __name__ == "__main__":
    main()
