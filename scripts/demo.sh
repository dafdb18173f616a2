#!/bin/sh
# The main job: SmolLM2-135M-Instruct, fine-tuned on the Python standard library of this machine, with
# less memory in each tier than its training state takes: the plan first, then the training, with a line of
# generated code before and after.
set -eu
cd "$(dirname "$0")/.."
model=demo/SmolLM2-135M-Instruct
out=demo/run
hetmem=build/hetmem
prompt='def read_json(path):
'
library=$(python3 -c 'import sysconfig; print(sysconfig.get_paths()["stdlib"])')

if [ ! -f "$model/model.safetensors" ]; then
  echo "Writing SmolLM2-135M-Instruct to $model"
  .venv/bin/python scripts/make_smollm2.py "$model"
fi

# The files of the library itself, without tests and installed packages.
rm -rf demo/text
mkdir -p demo/text
for folder in json email asyncio logging collections importlib unittest concurrent http urllib; do
  [ -d "$library/$folder" ] && cp -r "$library/$folder" "demo/text/$folder"
done
cp "$library"/*.py demo/text/

settings="--batch-size 2 --sequence-length 256 --steps 60 --learning-rate 1e-4 --warmup-steps 5
  --lr-scheduler-type cosine --device-memory 900MiB --host-memory 1.75GiB"
echo
echo "== The plan"
# shellcheck disable=SC2086  # the settings are words
$hetmem plan --model "$model" $settings
# shellcheck disable=SC2086
$hetmem plan --model "$model" $settings --json >demo/plan.json
python3 - demo/plan.json <<'END'
import json, sys

plan = json.load(open(sys.argv[1]))
device, host = plan["tiers"]["device"], plan["tiers"]["host"]


def size(number):
    return f"{number / (1 << 30):.2f} GiB"


state = 16 * plan["parameters"]  # weights, gradients, m and v in fp32
kinds = device["by_kind"]
passing = kinds["activations_saved"] + kinds["activations_temporary"] + kinds["workspace"]
chunks = plan["chunks"]
print(f"""
Weights, gradients and optimizer state take {size(state)}: more than the {size(device["budget"])} of the device
and more than the {size(host["budget"])} of the host. Beside {size(passing)} of activations, the device keeps
{chunks["on_device"]} of {chunks["count"]} chunks; the others live on the host and pass through while kernels run.""")
END

generate() {
  printf '%s' "$prompt"
  $hetmem generate --model "$1" --prompt "$prompt" --max-new-tokens 48 --temperature 0
}
echo
echo "== Before"
generate "$model"

echo
echo "== Training"
# shellcheck disable=SC2086
$hetmem train --model "$model" $settings --data demo/text \
  --data-glob '*.py' --out "$out" --overwrite-output-dir --log-format plain

echo
echo "== After"
generate "$out/final"

echo
python3 - "$out/metrics.jsonl" <<'END'
import json, sys

losses = [json.loads(line)["loss"] for line in open(sys.argv[1])]
first, last = sum(losses[:10]) / 10, sum(losses[-10:]) / 10
print(f"mean loss of the first ten steps {first:.3f}, of the last ten {last:.3f}")
if last >= first:
    sys.exit("the loss did not fall")
END
echo "report: $out/report.html, metrics: $out/metrics.jsonl, plan: $out/plan.json, model: $out/final"
