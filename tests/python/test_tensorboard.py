"""--tensorboard: what TensorBoard's own reader finds in the event files is what metrics.jsonl holds."""

import json
import signal
import subprocess

import numpy as np
from conftest import BINARY, hetmem, metrics, train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

RUN = dict(batch_size=2, sequence_length=33, learning_rate=1e-3)
TAGS = {
    "train/loss": lambda line: line["loss"],
    "train/grad_norm": lambda line: line["grad_norm"],
    "train/learning_rate": lambda line: line["learning_rate"],
    "train/tokens_per_second": lambda line: line["tokens_per_second"],
    "memory/device_peak_bytes": lambda line: line["memory"]["device"]["peak"],
    "memory/host_peak_bytes": lambda line: line["memory"]["host"]["peak"],
    "memory/disk_peak_bytes": lambda line: line["memory"]["disk"]["peak"],
}


def scalars(out):
    events = EventAccumulator(str(out / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)]
            for tag in events.Tags()["scalars"]}


def expected(lines):
    steps = [line for line in lines if "loss" in line]
    found = {tag: [(line["step"], float(np.float32(value(line)))) for line in steps]
             for tag, value in TAGS.items()}
    evaluations = [(line["step"], float(np.float32(line["eval_loss"])))
                   for line in lines if "eval_loss" in line]
    return found | ({"eval/loss": evaluations} if evaluations else {})


def test_event_files_hold_the_metrics(models, data, tmp_path):
    lines = train(models["gpt2"], data, tmp_path / "o", steps=5, eval_data=data, eval_steps=2,
                  device_memory="1MiB", tensorboard=True, **RUN)
    found = scalars(tmp_path / "o")
    assert found == expected(lines)
    assert [step for step, _ in found["eval/loss"]] == [2, 4, 5]
    assert found["memory/device_peak_bytes"][0][1] > 0
    (path,) = (tmp_path / "o" / "tensorboard").iterdir()
    events = list(LegacyEventFileLoader(str(path)).Load())
    assert events[0].file_version == "brain.Event:2"
    times = [event.wall_time for event in events]
    assert times == sorted(times) and abs(times[-1] - path.stat().st_mtime) < 5
    train(models["gpt2"], data, tmp_path / "p", steps=1, **RUN)
    assert not (tmp_path / "p" / "tensorboard").exists()


def test_a_resumed_run_goes_on(models, data, tmp_path):
    out = tmp_path / "o"
    flags = RUN | dict(steps=6, save_steps=2, save_total_limit=0, tensorboard=True)
    train(models["gpt2"], data, out, **flags)
    # Steps 3 to 6 happen again: readers have them once, as metrics.jsonl does.
    lines = train(models["gpt2"], data, out, resume_from_checkpoint=out / "checkpoint-2", **flags)
    assert len(list((out / "tensorboard").iterdir())) == 2
    assert scalars(out) == expected(lines)
    # A run in its place begins anew.
    lines = train(models["gpt2"], data, out, overwrite_output_dir=True, **flags)
    assert len(list((out / "tensorboard").iterdir())) == 1 and scalars(out) == expected(lines)


def test_a_viewer_can_follow(models, data, tmp_path):
    """What has been told on stdout is in the event file, while the run goes on."""
    words = ["--model", models["gpt2"], "--data", data, "--out", tmp_path / "o", "--steps", "4000",
             "--batch-size", "2", "--sequence-length", "33", "--tensorboard"]
    process = subprocess.Popen([BINARY, "train", *map(str, words)], stdout=subprocess.PIPE, text=True)
    try:
        told = [json.loads(process.stdout.readline()) for _ in range(3)]
        found = scalars(tmp_path / "o")
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert found["train/loss"][:3] == expected(told)["train/loss"]
    assert scalars(tmp_path / "o") == expected(metrics(tmp_path / "o"))


def test_a_skipped_step_has_no_loss(models, data, tmp_path):
    lines = train(models["gpt2"], data, tmp_path / "o", steps=6, on_nonfinite="skip",
                  tensorboard=True, max_grad_norm=0, lr_scheduler_type="constant", optimizer="sgd",
                  **(RUN | {"learning_rate": 1e30}))
    found = scalars(tmp_path / "o")["train/loss"]
    assert [np.isnan(value) for _, value in found] == [line["loss"] is None for line in lines]
    assert any(line.get("skipped") for line in lines)


def test_storage_that_fails(models, data, tmp_path):
    out = tmp_path / "o"
    train(models["gpt2"], data, out, steps=2, save_steps=1, **RUN)
    (out / "tensorboard").write_text("in the way")
    error = train(models["gpt2"], data, out, expect=4, steps=2, tensorboard=True,
                  resume_from_checkpoint=out / "checkpoint-1", **RUN)
    assert "--tensorboard" in error and str(out / "tensorboard") in error
    assert "--tensorboard" in hetmem("train", "--help").stdout
