"""OUT/report.html: one page that needs nothing else, whose numbers are those of metrics.jsonl and
plan.json, and whose pictures are there when a browser shows it in light and in dark."""

import html
import json
import os
import re
import shutil
import signal
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from conftest import BINARY, hetmem, metrics, train, write_tokens
from PIL import Image

RUN = dict(batch_size=2, sequence_length=33, learning_rate=1e-3, gradient_accumulation_steps=2)
CHARTS = {
    "chart-loss": ("loss", "loss"),
    "chart-speed": ("speed", "tokens_per_second"),
    "chart-rate": ("Learning rate", "learning_rate"),
    "chart-norm": ("Gradient norm", "grad_norm"),
}
VOID = {"meta", "br", "input", "link", "img", "hr"}


class Page(HTMLParser):
    """The elements of a page: (tag, attributes, text within), checked to be closed in order."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.elements = [], []
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {[e['tag'] for e in self.open]}"

    def handle_starttag(self, tag, attributes):
        element = dict(tag=tag, attributes=dict(attributes), text="", inside=list(self.open))
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open and self.open[-1]["tag"] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def all(self, tag, within=None, style=None):
        return [e for e in self.elements if e["tag"] == tag
                and (within is None or any(o["attributes"].get("id") == within for o in e["inside"]))
                and (style is None or style in e["attributes"].get("class", "").split())]

    def series(self, chart):
        (script,) = self.all("script", within=chart)
        return {line["name"]: line for line in json.loads(script["text"])["series"]}

    def rows(self, table):
        """First cell of each row -> the exact values that the others carry."""
        rows = {}
        for row in self.all("tr", within=table):
            cells = [e for e in self.elements if e["tag"] == "td" and row in e["inside"]]
            if cells:
                rows[cells[0]["text"]] = [
                    float(c["attributes"]["title"].split()[0]) for c in cells[1:]
                    if "title" in c["attributes"]]
        return rows


def page_of(out):
    return Page((out / "report.html").read_text(encoding="utf-8"))


def plan_of(model, **flags):
    done = hetmem("plan", "--model", model, "--json", *[
        word for k, v in (RUN | flags).items() for word in ("--" + k.replace("_", "-"), v)])
    return json.loads(done.stdout)


@pytest.fixture(scope="session")
def run(models, data, tokens, tmp_path_factory):
    """A run in which everything moves, between the smallest budgets and what all would take, with
    names that are not to be taken for HTML."""
    folder = tmp_path_factory.mktemp("report")
    model = folder / 'a<b>&"c'
    shutil.copytree(models["llama"], model)
    (folder / "disk").mkdir()
    disk = dict(disk=folder / "disk", disk_memory="1GiB")
    least = plan_of(model, host_memory=0, **disk)
    out = folder / "<script>alert(1)"
    evaluated = write_tokens(folder / "eval.bin", tokens[:340])
    lines = train(model, data, out, steps=40, eval_data=evaluated, eval_steps=10,
                  device_memory=least["smallest_device_memory"] + 60_000,
                  host_memory=least["tiers"]["host"]["peak"] + 400_000,
                  lr_scheduler_type="cosine", warmup_steps=5, trace=folder / "trace.json",
                  **disk, **RUN)
    return out, lines


@pytest.fixture(scope="session")
def page(run):
    return page_of(run[0])


@pytest.fixture(scope="session")
def plan(run):
    return json.loads((run[0] / "plan.json").read_text())


def test_the_page_stands_alone(run, page):
    text = (run[0] / "report.html").read_text(encoding="utf-8")
    assert len(text) < 400_000
    assert not re.search(r"https?://|@import|url\(|<link|<img|<iframe|\ssrc=|\shref=", text)
    assert text.startswith("<!DOCTYPE html>")
    ids = [e["attributes"]["id"] for e in page.elements if "id" in e["attributes"]]
    assert len(ids) == len(set(ids))
    assert [e["text"] for e in page.all("span", style="outcome")] == ["finished"]
    assert (run[0] / "config.yaml").read_text() == page.all("pre")[0]["text"]
    # What users name is text.
    assert page.all("h1")[0]["text"] == 'a<b>&"c' and str(run[0]) in page.all("header")[0]["text"]
    assert not any("alert" in script["text"] for script in page.all("script"))


def test_every_colour_is_there_in_light_and_in_dark(page):
    (style,) = page.all("style")
    light, dark = style["text"].split("@media (prefers-color-scheme: dark)")
    colours = [dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", part)) for part in (light, dark)]
    assert colours[0].keys() == colours[1].keys()
    assert not colours[0].items() & colours[1].items()
    assert set(re.findall(r"var\(--([a-z]+)\)", style["text"])) <= colours[0].keys()
    for tag, rule in (("path", "fill"), ("rect", "fill"), ("i", "background")):
        for name in {e["attributes"]["class"].split()[-1] for e in page.all(tag)
                     if "class" in e["attributes"]}:
            prefix = "i" if tag == "i" else ""
            known = re.search(rf"{re.escape(prefix)}\.{name}\b[^}}]*{rule}: var", style["text"])
            assert known or name in ("only", "smooth"), (tag, name)


def test_curves_hold_the_metrics(run, page):
    steps = [line for line in run[1] if "loss" in line]
    for chart, (name, key) in CHARTS.items():
        line = page.series(chart)[name]
        assert line["x"] == [s["step"] for s in steps]
        assert line["y"] == [s[key] for s in steps]
    evaluation = page.series("chart-loss")["evaluation loss"]
    assert (list(zip(evaluation["x"], evaluation["y"]))
            == [(line["step"], line["eval_loss"]) for line in run[1] if "eval_loss" in line])
    bound = page.series("chart-speed")["bound of the plan"]["y"]
    assert bound == pytest.approx([s["tokens_per_second"] / s["fraction_of_bound"] for s in steps])


def scale_of(page, chart, multiple=1):
    """From places in a picture to values, as its ticks say; and the value of a tenth of a unit."""
    ticks = [(float(t["attributes"]["y"]) - 4, float(t["text"]) * multiple)
             for t in page.all("text", within=chart, style="tick")
             if t["attributes"]["text-anchor"] == "end"]
    (y0, v0), (y1, v1) = ticks[0], ticks[-1]
    return (lambda y: v0 + (y - y0) * (v1 - v0) / (y1 - y0)), abs((v1 - v0) / (y1 - y0)) * 0.1


def test_curves_are_drawn_where_their_values_are(page):
    """Places in the picture are the values, shifted and scaled, and ticks say by how much."""
    for chart, (name, _) in CHARTS.items():
        drawn = page.all("polyline", within=chart)[0]["attributes"]["points"].split()
        x, y = np.array([[float(n) for n in point.split(",")] for point in drawn]).T
        value, tenth = scale_of(page, chart)
        assert value(y) == pytest.approx(page.series(chart)[name]["y"], abs=2 * tenth)
        assert np.all(np.diff(x) > 0)


def outline(path):
    """The upper and the lower edge of an area, by moment."""
    edges = re.findall(r"[ML][-\d.]+,([-\d.]+)H", path)
    assert path.endswith("Z") and len(edges) % 2 == 0
    half = len(edges) // 2
    return np.array([edges[:half], edges[half:][::-1]]).astype(float)


def test_areas_are_drawn_on_each_other_where_their_bytes_are(page):
    for chart in ("chart-device", "chart-host", "chart-disk"):
        label = page.all("text", within=chart, style="label")[-1]["text"]
        value, tenth = scale_of(page, chart, {"KiB": 2**10, "MiB": 2**20}[label])
        below = np.zeros(1)
        series, paths = page.series(chart), page.all("path", within=chart)
        assert len(series) == len(paths) > 1
        for area, path in zip(series.values(), paths):
            assert area["style"] in path["attributes"]["class"]
            upper, lower = value(outline(path["attributes"]["d"]))
            assert upper == pytest.approx(below + area["y"], abs=2 * tenth)
            assert lower == pytest.approx(below + np.zeros_like(lower), abs=2 * tenth)
            below = below + np.array(area["y"])


def test_memory_over_a_step_is_the_plans(page, plan):
    for name, least_used in (("device", 0.8), ("host", 1), ("disk", 1)):  # the device's pool has gaps
        tier = plan["tiers"][name]
        areas = page.series(f"chart-{name}")
        together = np.sum([area["y"] for area in areas.values()], axis=0)
        assert np.all(together == tier["peak"])
        used = together - areas.get("reserved, not in use", {"y": 0})["y"]
        assert least_used * tier["peak"] <= used.max() <= tier["peak"]
        assert used.min() < used.max()
        (label,) = page.all("text", within=f"chart-{name}", style="budget-label")
        assert label["text"].startswith("budget ")


def test_what_was_planned_is_beside_what_was_measured(run, page, plan):
    last = [line for line in run[1] if "loss" in line][-8:]
    for name in ("device", "host", "disk"):
        tier, used = plan["tiers"][name], last[-1]["memory"][name]
        rows = page.rows(f"table-{name}")
        for kind, planned in tier["by_kind"].items():
            if planned:
                assert rows[kind.replace("_", " ")][0] == planned
        assert rows["peak"] == [tier["peak"], used["peak"]]
        assert rows["budget"] == [tier["budget"], used["budget"]]
    step = page.rows("table-step")
    figures = {"copied to the device": "to_device", "copied to the host": "to_host",
               "read from disk": "disk_read", "written to disk": "disk_write"}
    for row, key in figures.items():
        assert step[row] == [plan["traffic"][key],
                             sorted(line["traffic"][key] for line in last)[4]]
        assert step[row][0] > 0
    assert step["time of a step"] == [plan["step_seconds"],
                                      sorted(line["seconds"] for line in last)[4]]


LANES = ["compute", "link to device", "link to host", "host optimizer", "disk read", "disk write"]


def test_lanes_of_a_step(page):
    lanes = [t["text"] for t in page.all("text", within="chart-lanes", style="lane")]
    assert lanes == LANES
    titles = [t["text"] for t in page.all("title", within="chart-lanes")]
    for what in ("fetch weights of chunk", "send gradient of chunk", "optimizer step of chunk"):
        assert any(what in title for title in titles), what
    # How wide ops are beside the disk's transfers depends on its speed.
    assert any("model.layers." in title or "head_loss" in title or "short ones" in title
               for title in titles)
    tracks = {float(e["attributes"]["y"]): e["attributes"]
              for e in page.all("rect", within="chart-lanes", style="track")}
    assert len(tracks) == len(LANES)
    filled = set()
    for bar in page.all("rect", within="chart-lanes"):
        at, track = bar["attributes"], tracks[float(bar["attributes"]["y"])]
        left, right = float(at["x"]), float(at["x"]) + float(at["width"])
        edge = float(track["x"]) + float(track["width"])
        assert float(track["x"]) - 0.1 <= left < right <= edge + 1
        filled.add((sorted(tracks).index(float(at["y"])), at["class"]))
    # Neighbours that are too narrow become one, in the style of most of it: which do depends on how
    # fast the disk is.
    assert {lane for lane, kind in filled if kind != "track"} == set(range(len(LANES)))
    kinds = {"track", "forward", "backward", "head", "norm", "weights", "gradients", "optimizer",
             "tokens"}
    assert {kind for _, kind in filled} <= kinds
    assert {kind for lane, kind in filled if lane == 3} == {"track", "optimizer"}


def test_the_trace_has_the_lanes_and_a_counter_a_tier(run, page, plan):
    events = json.loads((run[0].parent / "trace.json").read_text())["traceEvents"]
    named = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert sorted(named.values()) == ["hetmem", "planned step"]
    tracks = {(named[e["pid"]], e["tid"]): e["args"]["name"] for e in events
              if e["name"] == "thread_name"}
    of = {name: {t for (process, _), t in tracks.items() if process == name}
          for name in named.values()}
    assert of["hetmem"] >= {"compute", "host", "to device", "to host", "trainer"}
    assert of["planned step"] == set(LANES)
    spans = [e for e in events if e["ph"] == "X"]
    ran = {e["name"] for e in spans if tracks[named[e["pid"]], e["tid"]] == "host"}
    assert "adamw_step" in ran
    for name in ("device memory", "host memory", "disk"):
        tier = plan["tiers"][name.split()[0]]
        samples = [e for e in events if e["ph"] == "C" and e["name"] == name]
        planned = [sum(e["args"].values()) for e in samples if named[e["pid"]] == "planned step"]
        assert 0.8 * tier["peak"] <= max(planned) <= tier["peak"]
        if name == "disk":
            continue
        recorded = [e["args"]["value"] for e in samples if named[e["pid"]] == "hetmem"]
        assert max(recorded) <= tier["budget"]
        assert max(recorded) >= tier["peak"] * 0.9
    step = [e for e in spans if named[e["pid"]] == "planned step"]
    (picture,) = page.all("script", within="chart-device")
    end = json.loads(picture["text"])["high"]
    assert max(e["ts"] + e["dur"] for e in step) == pytest.approx(end * 1e6, abs=1)


def test_after_a_kill_and_after_a_resume(models, data, tmp_path):
    """A checkpoint leaves a page, which is written beside training: the last one may not be there yet.
    The one at the end has the steps of both starts."""
    out = tmp_path / "o"
    flags = RUN | dict(steps=6, save_steps=2, save_total_limit=0)
    train(models["gpt2"], data, out, expect=-9, env={"HETMEM_FAULTS": "step.done:5=kill"}, **flags)
    page = page_of(out)
    shown = [int(step) for step in page.series("chart-loss")["loss"]["x"]]
    assert shown in ([1, 2], [1, 2, 3, 4])
    outcome = page.all("span", style="outcome")[0]["text"]
    assert outcome == f"under way, after step {shown[-1]} of 6"
    lines = train(models["gpt2"], data, out, resume_from_checkpoint="latest", **flags)
    page = page_of(out)
    line = page.series("chart-loss")["loss"]
    assert line["x"] == [1, 2, 3, 4, 5, 6] and line["y"] == [step["loss"] for step in lines]
    # Nothing is said of a disk where there is none.
    lanes = [t["text"] for t in page.all("text", within="chart-lanes", style="lane")]
    assert lanes == LANES[:4] and not page.all("figure", within="chart-disk")


def test_after_a_signal_and_after_an_error(models, data, tmp_path):
    words = ["--model", models["gpt2"], "--data", data, "--out", tmp_path / "o", "--steps", "4000",
             "--batch-size", "2", "--sequence-length", "33"]
    process = subprocess.Popen([BINARY, "train", *map(str, words)], stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    page = page_of(tmp_path / "o")
    assert "stopped by a signal" in page.all("span", style="outcome")[0]["text"]
    assert page.series("chart-loss")["loss"]["x"][-1] == len(metrics(tmp_path / "o"))
    error = train(models["gpt2"], data, tmp_path / "e", expect=5, steps=9, optimizer="sgd",
                  max_grad_norm=0, lr_scheduler_type="constant", **(RUN | {"learning_rate": 1e30}))
    page = page_of(tmp_path / "e")
    (outcome,) = page.all("span", style="failed")
    assert outcome["text"].removeprefix("ended by an error: ") in error
    assert page.series("chart-loss")["loss"]["x"] == [s["step"] for s in metrics(tmp_path / "e")]


def test_a_run_that_goes_on_at_its_last_step_has_ended(models, data, tmp_path):
    """It takes no step: what it shows of the steps is what metrics.jsonl says of them."""
    out = tmp_path / "o"
    flags = RUN | dict(steps=4, save_steps=4)
    train(models["gpt2"], data, out, expect=4, env={"HETMEM_FAULTS": "file.create@final:1=EIO"}, **flags)
    assert page_of(out).all("span", style="outcome")[0]["text"].startswith("ended by an error")
    lines = train(models["gpt2"], data, out, resume_from_checkpoint="latest", **flags)
    page = page_of(out)
    assert page.all("span", style="outcome")[0]["text"] == "finished"
    assert page.series("chart-loss")["loss"]["y"] == [step["loss"] for step in lines]
    plan = json.loads((out / "plan.json").read_text())
    for tier in ("device", "host"):
        rows, planned = page.rows(f"table-{tier}"), plan["tiers"][tier]
        for row in ("peak", "budget"):
            assert rows.pop(row) == [planned[row], lines[-1]["memory"][tier][row]]
        assert all(len(row) == 1 for row in rows.values())  # of kinds nothing was measured
    assert len(page.rows("table-device")) > 2


def test_steps_without_a_loss_break_the_line(models, data, tmp_path):
    lines = train(models["gpt2"], data, tmp_path / "o", steps=6, on_nonfinite="skip",
                  max_grad_norm=0, lr_scheduler_type="constant", optimizer="sgd",
                  **(RUN | {"learning_rate": 1e30}))
    assert any(line["loss"] is None for line in lines)
    assert page_of(tmp_path / "o").series("chart-loss")["loss"]["y"] == [s["loss"] for s in lines]


# ---- in a browser

BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome")
COLOURS = {  # of a picture: what must be in it, by the names of the style sheet
    "chart-loss": ["raw", "accent", "gradients"],
    "chart-speed": ["accent"],
    "chart-rate": ["accent"],
    "chart-norm": ["accent"],
    "chart-device": ["weights", "saved", "unused", "budget"],
    "chart-host": ["staging", "budget"],
    "chart-disk": ["optimizer", "gradients"],
    "chart-lanes": ["forward", "backward", "head", "weights", "gradients", "optimizer"],
}
PROBE = """<script>
addEventListener("load", () => {
  const box = (e) => { const r = e.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; };
  const tips = {};
  for (const figure of document.querySelectorAll("figure.chart")) {
    const svg = figure.querySelector("svg"), r = svg.getBoundingClientRect();
    svg.dispatchEvent(new PointerEvent("pointermove", {clientX: r.left + r.width / 2, clientY: r.top + 20}));
    const tip = figure.querySelector(".tip");
    if (tip && !tip.hidden) tips[figure.id] = [...tip.children].map((row) => row.textContent);
    svg.dispatchEvent(new PointerEvent("pointerleave"));
  }
  const style = getComputedStyle(document.documentElement), colours = {};
  for (const rule of document.styleSheets[0].cssRules[0].style)
    if (rule.startsWith("--")) colours[rule.slice(2)] = style.getPropertyValue(rule).trim();
  const page = document.documentElement;
  parent.document.body.dataset[name] = JSON.stringify({
    tips, colours, wide: page.scrollWidth, tall: document.body.getBoundingClientRect().bottom,
    pictures: Object.fromEntries([...document.querySelectorAll("figure.chart")].map((f) => [f.id, {
      box: box(f.querySelector("svg")), texts: [...f.querySelectorAll("svg text")].filter((t) =>
        t.textContent).map((t) => [t.textContent, ...box(t)])}]))});
});
</script>"""
WIDE, TALL = 1200, 5600
FRAMES = {"light": WIDE, "dark": WIDE, "narrow": 700}  # narrow: below what is in the picture


@pytest.fixture(scope="session")
def looks(run, tmp_path_factory):
    """What a browser says of the page and its picture, by frame: one start for all."""
    browser = os.environ.get("HETMEM_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("no browser: `scripts/install_packages.sh chromium-headless-shell`, or set "
                    "HETMEM_BROWSER to a Chromium or Chrome")
    folder = tmp_path_factory.mktemp("browser")
    report = (run[0] / "report.html").read_text(encoding="utf-8").replace("</body>", PROBE + "</body>")
    frames = "".join(
        f'<iframe name="{name}" srcdoc="{html.escape(report)}" style="border:0;float:left;'
        f'color-scheme:{name if name == "dark" else "light"};width:{width}px;height:{TALL}px"></iframe>'
        for name, width in FRAMES.items())
    (folder / "frames.html").write_text(f'<!DOCTYPE html><body style="margin:0">{frames}', encoding="utf-8")
    image = folder / "report.png"
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
         "--force-device-scale-factor=1", f"--user-data-dir={folder / 'profile'}",
         f"--window-size={2 * WIDE},{TALL}", f"--screenshot={image}", "--dump-dom",
         (folder / "frames.html").as_uri()], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (said,) = re.findall(r"<body ([^>]*)>", done.stdout)[:1]
    pixels = np.asarray(Image.open(image).convert("RGB")).astype(int)
    parts = {"light": pixels[:, :WIDE], "dark": pixels[:, WIDE:]}
    seen = {}
    for name in FRAMES:
        (text,) = re.findall(rf'data-{name}="([^"]*)"', said)
        seen[name] = json.loads(html.unescape(text)), parts.get(name)
    return seen


def rgb(colour):
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])


def cut(pixels, box):
    left, top, right, bottom = (round(edge) for edge in box)
    return pixels[max(0, top) : bottom, max(0, left) : right].reshape(-1, 3)


@pytest.mark.parametrize("frame", ["light", "dark"])
def test_a_browser_draws_the_pictures(looks, frame):
    seen, pixels = looks[frame]
    dark = frame == "dark"
    assert seen["wide"] <= WIDE and 2000 < seen["tall"] < TALL
    corner = pixels[2, 2]
    assert np.array_equal(corner, rgb(seen["colours"]["page"]))
    assert corner.max() < 60 if dark else corner.min() > 230
    assert set(seen["pictures"]) == set(COLOURS)
    for name, picture in seen["pictures"].items():
        left, top, right, bottom = picture["box"]
        area = cut(pixels, picture["box"])
        assert right - left > 400 and bottom - top > 150
        for colour in COLOURS[name]:
            near = np.abs(area - rgb(seen["colours"][colour])).max(axis=1) <= 12
            assert near.sum() > 60, f"{name} has no {colour} in it"
        assert len(picture["texts"]) > 5
        for text, *box in picture["texts"]:
            assert left <= box[0] and box[2] <= right + 1 and top <= box[1] and box[3] <= bottom + 1
            ink = np.abs(cut(pixels, box) - cut(pixels, box)[0]).max(axis=1)
            assert (ink > 70).sum() >= 4, f"{name}: '{text}' cannot be read"
        for i, (a, al, at, ar, ab) in enumerate(picture["texts"]):
            for b, bl, bt, br, bb in picture["texts"][:i]:
                apart = ar <= bl or br <= al or ab <= bt + 3 or bb <= at + 3
                assert apart, f"{name}: '{a}' lies on '{b}'"


def test_values_are_shown_under_the_pointer(run, looks):
    tips = looks["narrow"][0]["tips"]
    assert looks["narrow"][0]["wide"] <= FRAMES["narrow"]
    assert set(tips) == set(COLOURS) - {"chart-lanes"}
    steps = [line for line in run[1] if "loss" in line]
    (said,) = [row for row in tips["chart-rate"] if row.startswith("step")]
    step = steps[int(said.removeprefix("step")) - 1]
    (rate,) = [row for row in tips["chart-rate"] if row.startswith("Learning rate")]
    assert float(rate.removeprefix("Learning rate")) == pytest.approx(step["learning_rate"], rel=1e-5)
    assert any(row.startswith("together") for row in tips["chart-device"])
