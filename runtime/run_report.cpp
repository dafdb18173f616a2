#include "runtime/run_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <limits>
#include <optional>

#include "core/byte_size.h"
#include "runtime/report_assets.h"
#include "runtime/svg_chart.h"

namespace hetmem {
namespace {

// From below: what stays through a step, then what comes and goes.
constexpr std::array kStacked{
    std::pair{MemoryKind::kOptimizer, "optimizer"},
    std::pair{MemoryKind::kStaging, "staging"},
    std::pair{MemoryKind::kWeights, "weights"},
    std::pair{MemoryKind::kGradients, "gradients"},
    std::pair{MemoryKind::kActivationsSaved, "saved"},
    std::pair{MemoryKind::kActivationsTemporary, "temporary"},
    std::pair{MemoryKind::kWorkspace, "workspace"},
};
static_assert(kStacked.size() == kMemoryKinds);

std::string style_of_op(const std::string& name) {
  if (name.starts_with("norm of")) return "norm";
  if (name.starts_with("head_loss")) return "head";
  return name.find("_backward") < name.find(' ') ? "backward" : "forward";
}

std::string style_of(const RunReport& report, const Action& action) {
  const auto target = static_cast<size_t>(action.target);
  switch (action.kind) {
    case Action::Kind::kOp:
      return style_of_op(report.step.op_names[target]);
    case Action::Kind::kFetch:
      return report.step.plan.residencies[target].weights ? "weights" : "gradients";
    case Action::Kind::kSend:
      return "gradients";
    case Action::Kind::kInputs:
    case Action::Kind::kOutputs:
      return "tokens";
    default:
      return "optimizer";
  }
}

std::string percent(double share) { return fmt::format("{:.1f} %", 100 * share); }

std::string seconds_text(double seconds) { return format_quantity(seconds, Unit::kSeconds); }

ChartLine line_of(const BoundedCurve& curve, const std::string& name, const std::string& style) {
  return {name, style, curve.points()};
}

// A running mean that forgets, over about a fiftieth of the run.
ChartLine smoothed(const BoundedCurve& curve) {
  ChartLine smooth{"loss, smoothed", "smooth", curve.means()};
  const double weight = 1.0 / std::max(5.0, static_cast<double>(smooth.points.size()) / 50);
  double mean = std::numeric_limits<double>::quiet_NaN();
  for (CurvePoint& point : smooth.points) {
    if (std::isfinite(point.y)) {
      mean = std::isfinite(mean) ? mean + weight * (point.y - mean) : point.y;
    }
    point.y = mean;
  }
  return smooth;
}

std::string loss_chart(const RunMetrics& metrics) {
  constexpr int64_t kWorthSmoothing = 30;
  LineChart chart{"chart-loss", "Loss", "step", "mean over label tokens", {}};
  const bool smooth = metrics.steps >= kWorthSmoothing;
  chart.lines.push_back(line_of(metrics.loss, "loss", smooth ? "raw" : "only"));
  if (smooth) chart.lines.push_back(smoothed(metrics.loss));
  if (!metrics.evaluation_loss.empty()) {
    chart.lines.push_back(line_of(metrics.evaluation_loss, "evaluation loss", "evaluation"));
    chart.lines.back().dots = true;
  }
  return draw(chart);
}

std::string speed_chart(const RunMetrics& metrics) {
  LineChart chart{"chart-speed", "Speed", "step", "tokens a second", {}};
  chart.from_zero = true;
  chart.lines.push_back(line_of(metrics.tokens_per_second, "speed", "only"));
  // Before the warm-up a bound goes by assumed rates, and may be anywhere.
  constexpr double kFarAbove = 3;
  chart.most = 0;
  for (const CurvePoint& point : chart.lines.front().points) {
    chart.most = std::max(chart.most, point.y * kFarAbove);
  }
  chart.lines.push_back(line_of(metrics.bound, "bound of the plan", "bound"));
  return draw(chart);
}

std::string curves(const RunMetrics& metrics) {
  const auto simple = [&](const char* id, const char* title, const char* label,
                          const BoundedCurve& curve) {
    return draw(LineChart{id, title, "step", label, {line_of(curve, title, "only")}, true});
  };
  return "<h2>Training</h2>\n<div class=\"two\">\n" + loss_chart(metrics) + speed_chart(metrics) +
         simple("chart-rate", "Learning rate", "", metrics.learning_rate) +
         simple("chart-norm", "Gradient norm", "before clipping", metrics.grad_norm) + "</div>\n";
}

// Stacked areas of a tier over a step; kinds that are not there are left out.
AreaChart tier_chart(const std::string& id, const std::string& title, const TierTimeline& tier,
                     double end) {
  AreaChart chart{id, title, {}, end, {}, static_cast<double>(tier.budget)};
  if (tier.samples.empty()) return chart;
  const auto add = [&](const std::string& name, const std::string& style, const auto& value_of) {
    ChartArea area{name, style, {}};
    for (const MemorySample& sample : tier.samples) {
      area.values.push_back(static_cast<double>(value_of(sample.bytes)));
    }
    if (*std::max_element(area.values.begin(), area.values.end()) <= 0) return;
    chart.areas.push_back(std::move(area));
  };
  for (const MemorySample& sample : tier.samples) chart.seconds.push_back(sample.seconds);
  for (const auto& [kind, style] : kStacked) {
    const auto index = static_cast<size_t>(kind);
    add(readable_name(kind), style, [&](const BytesByKind& bytes) { return bytes[index]; });
  }
  add("reserved, not in use", "unused",
      [&](const BytesByKind& bytes) { return tier.reserved - total(bytes); });
  return chart;
}

std::string memory_section(const RunReport& report) {
  const StepTimeline& timeline = report.step.timeline;
  std::vector<AreaChart> charts{
      tier_chart("chart-device", "Device memory", timeline.device, timeline.seconds),
      tier_chart("chart-host", "Host memory", timeline.host, timeline.seconds),
      tier_chart("chart-disk", "Disk", timeline.disk, timeline.seconds)};
  std::erase_if(charts, [](const AreaChart& chart) { return chart.areas.empty(); });
  std::vector<LegendEntry> legend;
  for (const auto& [kind, style] : kStacked) legend.push_back({readable_name(kind), style});
  legend.push_back({"reserved, not in use", "unused"});
  std::erase_if(legend, [&](const LegendEntry& entry) {
    const auto is_entry = [&](const ChartArea& area) { return area.style == entry.style; };
    return std::none_of(charts.begin(), charts.end(), [&](const AreaChart& chart) {
      return std::any_of(chart.areas.begin(), chart.areas.end(), is_entry);
    });
  });
  std::string html =
      "<h2>Memory over one step</h2>\n<p class=\"muted\">As the plan that ran last has it, by "
      "kind. A gradient that takes the place of its weights counts with them; below the device "
      "it waits for the optimizer.</p>\n" +
      draw_legend(legend) + "<div class=\"stack\">\n";
  for (const AreaChart& chart : charts) html += draw(chart);
  return html + "</div>\n";
}

bool is_of_disk(Lane lane) { return lane == Lane::kDiskRead || lane == Lane::kDiskWrite; }

std::string lane_section(const RunReport& report) {
  const StepTimeline& timeline = report.step.timeline;
  LaneChart chart{"chart-lanes", "Lanes", timeline.seconds, {}};
  for (int lane = 0; lane < kLanes; ++lane) {
    const std::vector<LaneSpan>& spans = timeline.lanes[static_cast<size_t>(lane)];
    if (is_of_disk(static_cast<Lane>(lane)) && !report.has_disk()) continue;
    ChartLane drawn{lane_name(static_cast<Lane>(lane)), "", {}};
    double busy = 0;
    for (const LaneSpan& span : spans) {
      const Action& action = report.step.plan.actions[static_cast<size_t>(span.action)];
      busy += span.end - span.begin;
      drawn.bars.push_back({span.begin, span.end, style_of(report, action),
                            action_name(report.step.plan, action, report.step.op_names)});
    }
    drawn.note = spans.empty() ? "unused" : percent(busy / timeline.seconds) + " busy";
    chart.lanes.push_back(std::move(drawn));
  }
  const std::vector<LegendEntry> legend{
      {"forward", "forward"},     {"head and loss", "head"},  {"backward", "backward"},
      {"gradient norms", "norm"}, {"optimizer", "optimizer"}, {"weights", "weights"},
      {"gradients", "gradients"}, {"tokens, loss", "tokens"},
  };
  return "<h2>One step</h2>\n<p class=\"muted\">The plan on the simulator's clock, with the times "
         "that ops and optimizer were measured to take and the rates of the link.</p>\n" +
         draw_legend(legend) + "<div class=\"stack\">\n" + draw(chart) + "</div>\n";
}

std::string table_row(const std::string& name, double planned, std::optional<double> measured,
                      Unit unit) {
  const auto cell = [&](double value) {
    const std::string exact =
        unit == Unit::kBytes ? fmt::format("{:.0f} bytes", value) : fmt::format("{} s", value);
    return fmt::format("<td title=\"{}\">{}</td>", exact, format_quantity(value, unit));
  };
  return fmt::format("<tr><td>{}</td>{}{}</tr>\n", name, cell(planned),
                     measured ? cell(*measured) : "<td>-</td>");
}

std::string open_table(const std::string& id, const std::string& caption) {
  return fmt::format(
      "<div class=\"card\"><table id=\"{}\"><caption>{}</caption><thead><tr><th></th><th>planned"
      "</th><th>measured</th></tr></thead><tbody>\n",
      id, caption);
}

std::string tier_table(const std::string& id, const std::string& caption, const TierPlan& plan,
                       const TierUse& use) {
  std::string html = open_table(id, caption);
  const bool kinds_known = total(use.by_kind) > 0;
  for (const auto& [kind, style] : kStacked) {
    const auto index = static_cast<size_t>(kind);
    if (plan.by_kind[index] == 0 && use.by_kind[index] == 0) continue;
    std::optional<double> measured;
    if (kinds_known) measured = static_cast<double>(use.by_kind[index]);
    html += table_row(readable_name(kind), static_cast<double>(plan.by_kind[index]), measured,
                      Unit::kBytes);
  }
  html += table_row("peak", static_cast<double>(plan.peak), static_cast<double>(use.peak),
                    Unit::kBytes);
  html += table_row("budget", static_cast<double>(plan.budget), static_cast<double>(use.budget),
                    Unit::kBytes);
  return html + "</tbody></table></div>\n";
}

std::string step_table(const RunReport& report) {
  const RunMetrics& metrics = report.metrics;
  const auto measured = [&](double StepMetrics::*figure) { return metrics.recent_median(figure); };
  const Plan& plan = report.step.plan;
  std::string html = open_table(
      "table-step", fmt::format("A step (median of the last {})", metrics.recent.size()));
  html += table_row("time of a step", plan.step_seconds, measured(&StepMetrics::seconds),
                    Unit::kSeconds);
  html += table_row("compute waits for copies", plan.exposed_seconds,
                    measured(&StepMetrics::exposed_copy_seconds), Unit::kSeconds);
  html += table_row("copied to the device", static_cast<double>(plan.traffic.to_device),
                    measured(&StepMetrics::to_device), Unit::kBytes);
  html += table_row("copied to the host", static_cast<double>(plan.traffic.to_host),
                    measured(&StepMetrics::to_host), Unit::kBytes);
  if (report.has_disk()) {
    html += table_row("read from disk", static_cast<double>(plan.traffic.disk_read),
                      measured(&StepMetrics::disk_read), Unit::kBytes);
    html += table_row("written to disk", static_cast<double>(plan.traffic.disk_write),
                      measured(&StepMetrics::disk_write), Unit::kBytes);
  }
  html += "</tbody></table>\n";
  html += fmt::format(
      "<p class=\"muted\">The lower bound of a step is {}; it is limited by {}. {} of {} chunks "
      "stay on the "
      "device.</p></div>\n",
      seconds_text(plan.lower_bound_seconds), escape_html(plan.limited_by),
      report.planned.resident_chunks, report.planned.chunks);
  return html;
}

std::string op_table(const RunReport& report) {
  const bool known = !report.measured_times.empty();
  const OpKindTimes& times = known ? report.measured_times : report.assumed_times;
  OpKindTime all;
  double assumed_all = 0;
  std::vector<std::pair<std::string, OpKindTime>> sorted(times.begin(), times.end());
  std::stable_sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) {
    return a.second.seconds > b.second.seconds;
  });
  for (const auto& [name, time] : sorted) all.seconds += time.seconds;
  std::string html =
      "<div class=\"card\"><table id=\"table-ops\"><caption>Compute by kind of op</caption><thead>"
      "<tr><th></th><th>calls</th><th>by the machine's rates</th><th>measured</th><th></th></tr>"
      "</thead><tbody>\n";
  const auto row = [&](const std::string& name, const OpKindTime& time, double assumed) {
    const double share = all.seconds > 0 ? time.seconds / all.seconds : 0;
    html += fmt::format(
        "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td class=\"share\"><span class=\"bar\" "
        "style=\"width:{:.1f}%\"></span> {}</td></tr>\n",
        escape_html(name), time.calls, seconds_text(assumed),
        known ? seconds_text(time.seconds) : "-", 65 * share, percent(share));
  };
  for (const auto& [name, time] : sorted) {
    const auto found = report.assumed_times.find(name);
    const double assumed = found == report.assumed_times.end() ? 0 : found->second.seconds;
    row(name, time, assumed);
    assumed_all += assumed;
    all.calls += time.calls;
  }
  row("all ops", all, assumed_all);
  return html + "</tbody></table></div>\n";
}

std::string comparison_section(const RunReport& report) {
  const PlanReport& planned = report.planned;
  std::string left = tier_table("table-device", "Device memory", planned.device, report.device);
  std::string right = tier_table("table-host", "Host memory", planned.host, report.host);
  if (report.has_disk()) right += tier_table("table-disk", "Disk", planned.disk, report.disk);
  (report.has_disk() ? left : right) += step_table(report);
  return "<h2>Plan and measurement</h2>\n<div class=\"stack\"><div class=\"two tables\">\n"
         "<div class=\"stack\">\n" +
         left + "</div>\n<div class=\"stack\">\n" + right + "</div>\n</div>\n" + op_table(report) +
         "</div>\n";
}

std::string setting_section(const RunReport& report) {
  std::string machine =
      "<div class=\"card\"><table id=\"table-machine\"><caption>Machine</caption><tbody>\n";
  for (const auto& [name, value] : report.machine) {
    machine += fmt::format("<tr><td>{}</td><td class=\"text\">{}</td></tr>\n", escape_html(name),
                           escape_html(value));
  }
  machine += "</tbody></table></div>\n";
  return "<h2>Configuration and machine</h2>\n<div class=\"two\">\n<div class=\"card\"><table>"
         "<caption>Configuration (config.yaml)</caption></table><pre id=\"configuration\">" +
         escape_html(report.config_yaml) + "</pre></div>\n" + machine + "</div>\n";
}

std::string tile(const std::string& value, const std::string& name, double share = -1) {
  std::string html = fmt::format("<div class=\"tile\"><b>{}</b><span>{}</span>", escape_html(value),
                                 escape_html(name));
  if (share >= 0) {
    html += fmt::format("<div class=\"meter\"><i style=\"width:{:.1f}%\"></i></div>",
                        100 * std::min(1.0, share));
  }
  return html + "</div>\n";
}

std::string tier_tile(const std::string& name, const TierUse& use) {
  const double share =
      use.budget > 0 ? static_cast<double>(use.peak) / static_cast<double>(use.budget) : 0;
  return tile(format_byte_size(use.peak), name + ", of " + format_byte_size(use.budget), share);
}

std::string tiles(const RunReport& report) {
  const RunMetrics& metrics = report.metrics;
  const auto recent = [&](double StepMetrics::*figure) { return metrics.recent_median(figure); };
  std::string html = "<div class=\"tiles\">\n";
  if (!metrics.recent.empty()) {
    const StepMetrics& last = metrics.recent.back();
    html += tile(format_quantity(last.loss, Unit::kNumber),
                 fmt::format("loss after {} steps", last.step));
  }
  html += tile(fmt::format("{:.0f}", recent(&StepMetrics::tokens_per_second)), "tokens a second");
  html += tile(seconds_text(recent(&StepMetrics::seconds)), "a step");
  const double share = recent(&StepMetrics::fraction_of_bound);
  html += tile(percent(share), "of the plan's bound", share);
  html += tier_tile("device", report.device) + tier_tile("host", report.host);
  if (report.has_disk()) html += tier_tile("disk", report.disk);
  return html + "</div>\n";
}

std::string base_name(const std::string& path) {
  std::filesystem::path folder(path);
  if (!folder.has_filename()) folder = folder.parent_path();
  const std::string name = folder.filename().string();
  return name.empty() || name == "." ? path : name;
}

}  // namespace

OpKindTimes times_by_kind(const std::vector<std::string>& op_names,
                          const std::vector<double>& op_seconds) {
  OpKindTimes times;
  for (size_t i = 0; i < op_names.size(); ++i) {
    std::string name = op_names[i].starts_with("norm of")
                           ? "gradient norms"
                           : op_names[i].substr(0, op_names[i].find(' '));
    std::replace(name.begin(), name.end(), '_', ' ');
    OpKindTime& time = times[name];
    ++time.calls;
    time.seconds += op_seconds[i];
  }
  return times;
}

std::string to_html(const RunReport& report) {
  const std::string title = base_name(report.model);
  std::string html = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<title>{0} - hetmem</title>\n<style>{1}</style>\n</head>\n<body>\n"
      "<header>\n<h1>{0}</h1>\n<p><span class=\"outcome{2}\">{3}</span> <span class=\"muted\">"
      "&middot; {4} &middot; {5:.1f} M parameters &middot; {6} tokens a step</span></p>\n",
      escape_html(title), report_style(), report.failed ? " failed" : "",
      escape_html(report.outcome), escape_html(report.out),
      static_cast<double>(report.planned.parameters) * 1e-6, report.planned.tokens_per_step);
  html += tiles(report) + "</header>\n<main>\n";
  html += curves(report.metrics) + memory_section(report) + lane_section(report) +
          comparison_section(report) + setting_section(report);
  return html + fmt::format(
                    "</main>\n<footer>hetmem. The numbers behind this page: metrics.jsonl, "
                    "plan.json, access_trace.json.</footer>\n<script>{}</script>\n</body>\n"
                    "</html>\n",
                    report_script());
}

trace::Process to_trace(const PlannedTimeline& step) {
  const StepTimeline& timeline = step.timeline;
  trace::Process process{"planned step", {}, {}};
  for (int lane = 0; lane < kLanes; ++lane) {
    for (const LaneSpan& span : timeline.lanes[static_cast<size_t>(lane)]) {
      process.spans.push_back(
          {lane_name(static_cast<Lane>(lane)),
           action_name(step.plan, step.plan.actions[static_cast<size_t>(span.action)],
                       step.op_names),
           span.begin, span.end - span.begin});
    }
  }
  const auto add = [&](const char* track, const TierTimeline& tier) {
    for (const MemorySample& sample : tier.samples) {
      trace::Sample counter{track, sample.seconds, {}};
      for (const auto& [kind, style] : kStacked) {
        counter.values.emplace_back(name_of(kind), sample.bytes[static_cast<size_t>(kind)]);
      }
      process.samples.push_back(std::move(counter));
    }
  };
  add("device memory", timeline.device);
  add("host memory", timeline.host);
  if (timeline.disk.reserved > 0) add("disk", timeline.disk);
  return process;
}

}  // namespace hetmem
