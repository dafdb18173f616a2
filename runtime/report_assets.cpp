#include "runtime/report_assets.h"

namespace hetmem {
namespace {

constexpr std::string_view kStyle = R"css(
:root {
  color-scheme: light dark;
  --page: #f4f5f7; --card: #ffffff; --text: #1c2128; --muted: #5c6672; --grid: #e4e7eb;
  --edge: #dfe3e8; --accent: #2f63c8; --good: #1d7f4c; --bad: #c0392b; --budget: #c0392b;
  --weights: #3f73d6; --gradients: #e2683f; --optimizer: #dba51c; --saved: #35a268;
  --temporary: #7cc4c4; --workspace: #9a6ad6; --staging: #8d7361; --unused: #d5dae0;
  --forward: #4a9fd8; --backward: #5b57b8; --head: #c2578f; --norm: #8a95a3; --tokens: #a9b3be;
  --raw: #a9c0ec; --bound: #8a95a3;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0f1317; --card: #181d23; --text: #e4e8ed; --muted: #98a3b0; --grid: #2a313a;
    --edge: #262d35; --accent: #7aa5f5; --good: #5cc48d; --bad: #f08072; --budget: #f08072;
    --weights: #6090ea; --gradients: #ee8159; --optimizer: #e0b440; --saved: #4db880;
    --temporary: #5fa9ad; --workspace: #ad84e4; --staging: #a98d79; --unused: #39424d;
    --forward: #58aee4; --backward: #837ee0; --head: #d976a8; --norm: #77828f; --tokens: #5d6874;
    --raw: #45608f; --bound: #77828f;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main, header { max-width: 1160px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 28px; }
h1 { font-size: 24px; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 34px 0 10px; }
p { margin: 6px 0; }
.muted { color: var(--muted); }
.outcome { color: var(--good); font-weight: 600; }
.outcome.failed { color: var(--bad); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(138px, 1fr)); gap: 12px;
  margin: 20px 0 0; }
.tile, figure.chart, .card { background: var(--card); border: 1px solid var(--edge);
  border-radius: 10px; }
.tile { padding: 12px 16px; }
.tile b { display: block; font-size: 21px; font-weight: 600; font-variant-numeric: tabular-nums; }
.tile span { color: var(--muted); font-size: 13px; }
.meter { height: 5px; border-radius: 3px; background: var(--grid); margin-top: 8px; }
.meter i { display: block; height: 100%; border-radius: 3px; background: var(--accent); }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr));
  gap: 14px; }
figure.chart { margin: 0; padding: 12px 12px 8px; position: relative; min-width: 0; }
.stack { display: grid; grid-template-columns: minmax(0, 1fr); gap: 14px; }
.two.tables { align-items: start; }
figcaption { font-weight: 600; padding: 0 4px 6px; }
.chart > svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--text); font-size: 12px; font-family: inherit; }
svg .tick, svg .label { fill: var(--muted); font-size: 11.5px; font-variant-numeric: tabular-nums; }
svg .lane { font-size: 12px; }
.grid { stroke: var(--grid); stroke-width: 1; }
.rule { stroke: var(--muted); stroke-width: 1; stroke-dasharray: 3 3; }
.budget { stroke: var(--budget); stroke-width: 1.6; stroke-dasharray: 7 4; }
svg .budget-label { fill: var(--budget); font-weight: 600; paint-order: stroke;
  stroke: var(--card); stroke-width: 3px; stroke-linejoin: round; }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; stroke: var(--accent); }
.line.raw { stroke: var(--raw); stroke-width: 1.2; }
.line.bound { stroke: var(--bound); stroke-dasharray: 6 4; }
.line.evaluation { stroke: var(--gradients); }
.dot { fill: var(--accent); }
.dot.raw { fill: var(--raw); }
.dot.bound { fill: var(--bound); }
.dot.evaluation { fill: var(--gradients); }
.bars { shape-rendering: crispEdges; }
.track { fill: var(--grid); opacity: .45; }
.weights { fill: var(--weights); } .gradients { fill: var(--gradients); }
.optimizer { fill: var(--optimizer); } .saved { fill: var(--saved); }
.temporary { fill: var(--temporary); } .workspace { fill: var(--workspace); }
.staging { fill: var(--staging); } .unused { fill: var(--unused); }
.forward { fill: var(--forward); } .backward { fill: var(--backward); } .head { fill: var(--head); }
.norm { fill: var(--norm); } .tokens { fill: var(--tokens); }
.legend + .stack { margin-top: 8px; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 18px; list-style: none; margin: 4px 0 4px;
  padding: 0 4px; font-size: 13px; color: var(--muted); }
.legend i { display: inline-block; width: 11px; height: 11px; border-radius: 3px;
  margin-right: 6px; background: var(--accent); }
i.raw { background: var(--raw); } i.bound { background: var(--bound); }
i.evaluation, i.gradients { background: var(--gradients); } i.weights { background: var(--weights); }
i.optimizer { background: var(--optimizer); } i.saved { background: var(--saved); }
i.temporary { background: var(--temporary); } i.workspace { background: var(--workspace); }
i.staging { background: var(--staging); } i.unused { background: var(--unused); }
i.forward { background: var(--forward); } i.backward { background: var(--backward); }
i.head { background: var(--head); } i.norm { background: var(--norm); }
i.tokens { background: var(--tokens); }
.card { padding: 8px 16px 12px; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
caption { text-align: left; font-weight: 600; padding: 6px 0; }
th, td { text-align: right; padding: 4px 0 4px 14px; border-top: 1px solid var(--grid);
  font-variant-numeric: tabular-nums; white-space: nowrap; }
th { font-weight: 500; color: var(--muted); }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
td.text { text-align: left; white-space: normal; overflow-wrap: anywhere; }
td .bar { display: inline-block; height: 9px; border-radius: 2px; background: var(--accent);
  vertical-align: baseline; }
td.share { text-align: left; width: 45%; }
pre { margin: 0; font: 12.5px/1.5 ui-monospace, "DejaVu Sans Mono", Menlo, monospace;
  white-space: pre-wrap; overflow-wrap: anywhere; }
.tip { position: absolute; pointer-events: none; z-index: 1; background: var(--card);
  border: 1px solid var(--edge); border-radius: 7px; box-shadow: 0 3px 14px rgb(0 0 0 / .18);
  padding: 6px 10px; font-size: 12.5px; font-variant-numeric: tabular-nums; white-space: nowrap; }
.tip div { display: flex; justify-content: space-between; gap: 16px; }
.tip i { display: inline-block; width: 9px; height: 9px; border-radius: 2px; margin-right: 6px;
  background: var(--accent); }
.tip b { font-weight: 600; }
footer { max-width: 1160px; margin: 26px auto 34px; padding: 0 20px; color: var(--muted);
  font-size: 13px; }
)css";

constexpr std::string_view kScript = R"js(
"use strict";
const inUnit = {
  bytes: (v) => {
    let i = 0;
    while (v >= 1024 && i < 4) { v /= 1024; ++i; }
    return (i ? v.toPrecision(3) : v) + " " + ["B", "KiB", "MiB", "GiB", "TiB"][i];
  },
  seconds: (v) => v >= 1 ? v.toPrecision(4) + " s" : (v * 1e3).toPrecision(4) + " ms",
  "": (v) => Number.isInteger(v) ? String(v) : String(Number(v.toPrecision(6))),
};
// The last one that is not after x; where values do not hold, the one next to x.
function indexAt(xs, x, holds) {
  let low = 0, high = xs.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (xs[middle] <= x) low = middle; else high = middle - 1;
  }
  if (!holds && low + 1 < xs.length && xs[low + 1] - x < x - xs[low]) ++low;
  return low;
}
for (const figure of document.querySelectorAll("figure.chart")) {
  const source = figure.querySelector("script[type='application/json']");
  if (!source) continue;
  const data = JSON.parse(source.textContent);
  const svg = figure.querySelector("svg"), rule = svg.querySelector(".rule");
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  figure.append(tip);
  const row = (name, value, style) => {
    const div = document.createElement("div"), label = document.createElement("span");
    if (style) { const i = document.createElement("i"); i.className = style; label.append(i); }
    label.append(name);
    const number = document.createElement("b");
    number.textContent = value;
    div.append(label, number);
    tip.append(div);
  };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect(), scale = data.width / box.width;
    const at = ((event.clientX - box.left) * scale - data.left) / (data.right - data.left);
    let x = data.low + Math.min(1, Math.max(0, at)) * (data.high - data.low);
    const first = data.series[0];
    if (!first || !first.x.length) return;
    if (!data.holds) x = first.x[indexAt(first.x, x, false)];
    tip.replaceChildren();
    row(data.x, inUnit[data.x_unit](x), "");
    let sum = 0;
    for (const line of [...data.series].reverse()) {
      if (!line.x.length) continue;
      const value = line.y[indexAt(line.x, x, data.holds)];
      if (data.holds && !value) continue;
      sum += value;
      row(line.name, value === null ? "-" : inUnit[data.unit](value), line.style);
    }
    if (data.holds) row("together", inUnit[data.unit](sum), "");
    const px = data.left + (x - data.low) / (data.high - data.low) * (data.right - data.left);
    rule.setAttribute("x1", px);
    rule.setAttribute("x2", px);
    rule.setAttribute("visibility", "visible");
    tip.hidden = false;
    const frame = figure.getBoundingClientRect(), here = px / scale + box.left - frame.left;
    const fits = here + 14 + tip.offsetWidth <= frame.width;
    tip.style.left = Math.max(4, fits ? here + 14 : here - 14 - tip.offsetWidth) + "px";
    tip.style.top = box.top - frame.top + 8 + "px";
  });
  svg.addEventListener("pointerleave", () => {
    tip.hidden = true;
    rule.setAttribute("visibility", "hidden");
  });
}
)js";

}  // namespace

std::string_view report_style() { return kStyle; }
std::string_view report_script() { return kScript; }

}  // namespace hetmem
