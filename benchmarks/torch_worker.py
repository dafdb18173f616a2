"""The other side of benchmarks/run.py: PyTorch on the same model, data and optimizer.

    torch_worker.py step FOLDER TOKENS BATCH SEQUENCE STEPS eager|compile THREADS
    torch_worker.py adam PARAMETERS STEPS THREADS
    torch_worker.py gemm THREADS            # shapes as JSON on stdin
"""

import json
import sys
import time

import numpy as np
import torch


def best_of(times, work):
    best = float("inf")
    for _ in range(times):
        begin = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - begin)
    return best


def step(folder, tokens, batch, length, steps, mode, threads):
    import transformers

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(threads)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0, fused=True)
    stream = np.fromfile(tokens, np.uint16)[512:].astype(np.int64)

    def loss_of(rows):
        logits = model(rows[:, :-1], use_cache=False).logits
        return torch.nn.functional.cross_entropy(
            logits.view(-1, logits.shape[-1]), rows[:, 1:].reshape(-1))

    run = torch.compile(loss_of) if mode == "compile" else loss_of
    losses, seconds = [], []
    for k in range(steps):
        begin = time.perf_counter()
        first = k * batch
        rows = torch.tensor(np.stack([stream[w * length : w * length + length + 1]
                                      for w in range(first, first + batch)]))
        for group in optimizer.param_groups:
            group["lr"] = 5e-5 * (steps - k) / steps
        optimizer.zero_grad()
        loss = run(rows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - begin)
    return {"losses": losses, "tokens_per_second": batch * length / min(seconds)}


def adam(name, parameters, steps, threads):
    torch.set_num_threads(threads)
    weight = torch.nn.Parameter(torch.full((parameters,), 0.001))
    weight.grad = torch.full((parameters,), 0.002)
    if name == "deepspeed-adam":  # which it compiles for this processor at its first use
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        optimizer = DeepSpeedCPUAdam([weight], lr=1e-5)
    else:
        optimizer = torch.optim.AdamW([weight], lr=1e-5, weight_decay=0, fused=True)
    optimizer.step()
    return {"seconds": best_of(steps, optimizer.step)}


def gemm(threads):
    torch.set_num_threads(threads)
    seconds = []
    for m, n, k, transpose_a, transpose_b in json.load(sys.stdin):
        a = torch.full((k, m) if transpose_a else (m, k), 0.5)
        b = torch.full((n, k) if transpose_b else (k, n), 0.25)
        c = torch.empty(m, n)
        left, right = a.t() if transpose_a else a, b.t() if transpose_b else b
        torch.mm(left, right, out=c)
        seconds.append(best_of(5, lambda: torch.mm(left, right, out=c)))
    return {"seconds": seconds}


def main(words):
    if words[0] == "step":
        folder, tokens, batch, length, steps, mode, threads = words[1:]
        return step(folder, tokens, int(batch), int(length), int(steps), mode, int(threads))
    if words[0] in ("adam", "deepspeed-adam"):
        return adam(words[0], *map(int, words[1:]))
    return gemm(int(words[1]))


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
