"""What limits of memory cost: `hetmem bench memory`, kept as JSON, that of the device drawn as a
curve.

    .venv/bin/python benchmarks/memory.py [--repeats N] [--steps N] [--points N] [--model DIR]
                                          [--disk DIR[,DIR...]] [--draw-only] [--out FILE.json] [--image FILE.svg]
"""

import argparse
import datetime
import json
import os
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent
HETMEM = os.environ.get("HETMEM_BINARY", str(ROOT / "build" / "hetmem"))
GIB = 1 << 30

WIDTH, LEFT, RIGHT = 760, 64, 24
TOP, SPEED, GAP, MOVED, BOTTOM = 80, 210, 34, 70, 52
HEIGHT = TOP + SPEED + GAP + MOVED + BOTTOM

# One picture for light and dark pages: the viewer says which.
STYLE = """
text { font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #24292f }
.title { font-size: 16px; font-weight: 600 } .small { font-size: 12px; fill: #57606a }
.axis { stroke: #8c959f; stroke-width: 1 } .grid { stroke: #d0d7de; stroke-width: 1 }
.band { fill: #8c959f; fill-opacity: .16 } .curve { stroke: #0969da; stroke-width: 2.5; fill: none }
.point { fill: #0969da } .moved { fill: #bc4c00; fill-opacity: .75 } .value { font-weight: 600 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .small { fill: #9198a1 } .axis { stroke: #6e7681 } .grid { stroke: #30363d }
  .band { fill: #8b949e; fill-opacity: .18 } .curve { stroke: #58a6ff } .point { fill: #58a6ff }
  .moved { fill: #f0883e }
}
"""


def text(x, y, words, kind="", anchor="start"):
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{words}</text>'


def line(x1, y1, x2, y2, kind):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


class Axes:
    def __init__(self, most_bytes, most_moved):
        self.most_bytes = most_bytes
        self.most_moved = max(most_moved, 1)
        self.floor = TOP + SPEED
        self.moved_floor = self.floor + GAP + MOVED

    def x(self, size):
        return LEFT + (WIDTH - LEFT - RIGHT) * size / self.most_bytes

    def y(self, ratio):
        return self.floor - SPEED * ratio / 1.1

    def moved_height(self, size):
        return MOVED * size / self.most_moved


def frame(axes, activations):
    parts = [f'<rect x="{LEFT}" y="{TOP}" width="{axes.x(activations) - LEFT:.1f}" '
             f'height="{SPEED}" class="band"/>',
             text((LEFT + axes.x(activations)) / 2, TOP + SPEED / 2 - 8, "activations,", "small",
                  "middle"),
             text((LEFT + axes.x(activations)) / 2, TOP + SPEED / 2 + 8, "workspace", "small",
                  "middle")]
    for percent in (25, 50, 75, 100):
        y = axes.y(percent / 100)
        parts += [line(LEFT, y, WIDTH - RIGHT, y, "grid"),
                  text(LEFT - 8, y + 4, f"{percent} %", "small", "end")]
    tick = 0
    while tick * GIB / 4 <= axes.most_bytes:
        x = axes.x(tick * GIB / 4)
        parts.append(line(x, axes.moved_floor, x, axes.moved_floor + 4, "axis"))
        if tick % 2 == 0:
            parts.append(text(x, axes.moved_floor + 18, f"{tick / 4:g}", "small", "middle"))
        tick += 1
    parts += [line(LEFT, floor, WIDTH - RIGHT, floor, "axis")
              for floor in (axes.floor, axes.moved_floor)]
    parts += [text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, "device memory, GiB", "small", "middle"),
              text(LEFT - 8, axes.moved_floor - MOVED + 8, f"{axes.most_moved / GIB:.1f} GiB",
                   "small", "end"),
              text(LEFT - 8, axes.moved_floor + 2, "0", "small", "end"),
              text(LEFT, TOP - 10, "speed, of that without a limit", "small"),
              text(WIDTH - RIGHT, axes.floor + GAP - 14, "moved between host and device in a step",
                   "small", "end")]
    return parts


def draw(document):
    results = sorted((r for r in document["results"] if "host_budget" not in r["parameters"]),
                     key=lambda r: r["parameters"]["device_budget"])
    points = [(r["parameters"]["device_budget"], r["ratio"],
               r["parameters"]["to_device"] + r["parameters"]["to_host"]) for r in results]
    first = results[0]["parameters"]
    axes = Axes(points[-1][0] * 1.04, max(moved for _, _, moved in points))
    name = results[0]["name"].split(" in ")[0].split("/")[-1]
    parts = [text(LEFT, 22, f"Speed of {name} by device memory", "title"),
             text(LEFT, 40, f"{first['batch_size'] * first['sequence_length']} tokens a step; "
                  f"weights, gradients and optimizer state take {first['state_bytes'] / GIB:.2f} "
                  f"GiB, activations {first['activation_peak'] / GIB:.2f} GiB", "small")]
    parts += frame(axes, first["activation_peak"])
    for size, _, moved in points:
        height = axes.moved_height(moved)
        parts.append(f'<rect x="{axes.x(size) - 4:.1f}" y="{axes.moved_floor - height:.1f}" '
                     f'width="8" height="{height:.1f}" class="moved"/>')
    path = " ".join(f"{axes.x(size):.1f},{axes.y(ratio):.1f}" for size, ratio, _ in points)
    parts.append(f'<polyline points="{path}" class="curve"/>')
    for size, ratio, _ in points:
        parts.append(f'<circle cx="{axes.x(size):.1f}" cy="{axes.y(ratio):.1f}" r="4" '
                     'class="point"/>')
    parts += callouts(axes, points, first)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            f'width="{WIDTH}" height="{HEIGHT}" role="img">\n<title>Speed of a training step by '
            f'device memory</title>\n<style>{STYLE}</style>\n' + "\n".join(parts) + "\n</svg>\n")


def callouts(axes, points, first):
    """The smallest budget and the two that hold a tenth and a quarter of the state, in words: the
    leftmost lowest, so that no line crosses words."""
    state, activations = first["state_bytes"], first["activation_peak"]
    named = [(points[0], "the smallest")]
    for part, words in ((10, "activations + 1/10 of the state"),
                        (4, "activations + 1/4 of the state")):
        wanted = activations + state // part
        named += [(point, words) for point in points if point[0] == wanted]
    parts = []
    for level, ((size, ratio, _), words) in enumerate(reversed(named)):
        x, y = axes.x(size), axes.y(0.62 - 0.17 * level)
        parts += [line(x, axes.y(ratio) + 5, x, y - 4, "axis"), line(x, y - 4, x + 8, y - 4, "axis"),
                  text(x + 12, y, f'<tspan class="value">{100 * ratio:.0f} %</tspan> in '
                       f"{size / GIB:.2f} GiB: {words}")]
    return parts


def measure(options):
    words = [HETMEM, "bench", "memory", "--json", "--repeats", str(options.repeats), "--steps",
             str(options.steps), "--points", str(options.points)]
    for name in ("model", "batch_size", "sequence_length", "disk"):
        value = getattr(options, name)
        if value is not None:
            words += ["--" + name.replace("_", "-"), str(value)]
    return json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout)


def show(document):
    for r in document["results"]:
        p = r["parameters"]
        print(f"{r['name']:<52} {r['value']:>8.1f} {r['unit']} {100 * r['ratio']:>6.1f} % of "
              f"{r['reference_value']:.1f} without a limit; predicted {p['predicted_seconds']:.3f} s, "
              f"took {p['median_seconds']:.3f} s, exposed {p['exposed_copy_seconds']:.3f} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--points", type=int, default=8)
    parser.add_argument("--model")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--sequence-length", type=int)
    parser.add_argument("--disk", help="folders for what the host has no room for, by commas")
    parser.add_argument("--draw-only", action="store_true", help="draw --out again")
    parser.add_argument("--out")
    parser.add_argument("--image", default=str(ROOT / "docs" / "images" / "memory.svg"))
    options = parser.parse_args()
    if options.draw_only:
        document = json.loads(pathlib.Path(options.out).read_text())
    else:
        document = measure(options) | {"date": datetime.date.today().isoformat()}
        out = pathlib.Path(options.out or ROOT / "benchmarks" / "results" /
                           f"memory-{document['machine']['instruction_set']}.json")
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(document, indent=1) + "\n")
    show(document)
    image = pathlib.Path(options.image)
    image.parent.mkdir(parents=True, exist_ok=True)
    image.write_text(draw(document))
    print(f"drawn to {image}")


if __name__ == "__main__":
    main()
