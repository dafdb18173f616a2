#include "runtime/svg_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/byte_size.h"
#include "io/json.h"

namespace hetmem {
namespace {

// Of the plot within its picture, in units of the viewBox.
struct Frame {
  double width = 0;
  double height = 0;
  double left = 0;
  double right = 0;
  double top = 0;
  double bottom = 0;
};
constexpr Frame kHalf{520, 258, 56, 508, 28, 216};
constexpr Frame kWide{1080, 288, 112, 1066, 30, 246};

constexpr double kLaneHeight = 30;
constexpr double kLaneGap = 14;
// Narrower bars are drawn together with their neighbours.
constexpr double kLeastBar = 0.8;

struct Scale {
  double low = 0;
  double high = 1;
  double from = 0;  // where `low` is
  double to = 1;
  double operator()(double value) const {
    return from + (value - low) / (high - low) * (to - from);
  }
};

// 1, 2 or 5 times a power of ten, so that about `count` of them make `range`.
double nice_step(double range, int count) {
  const double rough = range / count;
  const double power = std::pow(10.0, std::floor(std::log10(rough)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= rough * 0.999) return factor * power;
  }
  return 10 * power;
}

struct Axis {
  Scale scale;
  double step = 1;
  double unit = 1;  // ticks are written in multiples of it
  std::string unit_name;

  std::vector<double> ticks() const {
    std::vector<double> all;
    const double slack = step * 1e-9;
    for (double i = std::ceil((scale.low - slack) / step); i * step <= scale.high + slack; ++i) {
      all.push_back(i * step);
    }
    return all;
  }
  std::string text(double tick) const {
    const double value = tick / unit;
    if (value == 0) return "0";
    const double size = std::max(std::abs(scale.high), std::abs(scale.low)) / unit;
    if (size >= 1e6 || size < 1e-3) return fmt::format("{:.3g}", value);
    const int digits = std::max(0, static_cast<int>(-std::floor(std::log10(step / unit) + 1e-9)));
    return fmt::format("{:.{}f}", value, digits);
  }
};

// Around the values, to the next tick on either side.
Axis value_axis(double least, double most, bool from_zero, const Frame& frame) {
  if (from_zero) least = std::min(0.0, least);
  if (!(most > least)) {
    const double around = std::max(std::abs(most) * 0.1, 1e-12);
    if (!from_zero) least -= around;
    most += around;
  }
  Axis axis;
  axis.step = nice_step(most - least, 5);
  axis.scale = {std::floor(least / axis.step + 1e-9) * axis.step,
                std::ceil(most / axis.step - 1e-9) * axis.step, frame.bottom, frame.top};
  return axis;
}

Axis byte_axis(double most, const Frame& frame) {
  constexpr double kKibi = 1024;
  Axis axis;
  axis.unit_name = "B";
  for (const char* name : {"KiB", "MiB", "GiB", "TiB"}) {
    if (most / axis.unit < 2 * kKibi) break;
    axis.unit *= kKibi;
    axis.unit_name = name;
  }
  axis.step = nice_step(most / axis.unit, 5) * axis.unit;
  axis.scale = {0, most, frame.bottom, frame.top};
  return axis;
}

Axis time_axis(double seconds, const Frame& frame) {
  Axis axis;
  axis.unit_name = "s";
  for (const char* name : {"ms", "µs"}) {
    if (seconds / axis.unit >= 2) break;
    axis.unit *= 1e-3;
    axis.unit_name = name;
  }
  const double end = seconds > 0 ? seconds : 1;
  axis.step = nice_step(end / axis.unit, 10) * axis.unit;
  axis.scale = {0, end, frame.left, frame.right};
  return axis;
}

Axis step_axis(double least, double most, const Frame& frame) {
  Axis axis;
  if (!(most > least)) {
    least -= 1;
    most += 1;
  }
  axis.step = std::max(1.0, nice_step(most - least, 6));
  axis.scale = {least, most, frame.left, frame.right};
  return axis;
}

std::string open_svg(const Frame& frame, const std::string& title) {
  return fmt::format("<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">\n", frame.width,
                     frame.height, escape_html(title));
}

std::string open_figure(const std::string& id, const std::string& title) {
  return fmt::format("<figure id=\"{}\" class=\"chart\"><figcaption>{}</figcaption>\n", id,
                     escape_html(title));
}

std::string horizontal_grid(const Axis& axis, const Frame& frame) {
  std::string svg;
  for (const double tick : axis.ticks()) {
    const double y = axis.scale(tick);
    svg += fmt::format(
        "<line class=\"grid\" x1=\"{0}\" x2=\"{1}\" y1=\"{2:.1f}\" y2=\"{2:.1f}\"/>"
        "<text class=\"tick\" x=\"{3}\" y=\"{4:.1f}\" text-anchor=\"end\">{5}</text>\n",
        frame.left, frame.right, y, frame.left - 7, y + 4, axis.text(tick));
  }
  return svg;
}

std::string x_ticks(const Axis& axis, const Frame& frame, bool lines, const std::string& label) {
  std::string svg;
  for (const double tick : axis.ticks()) {
    const double x = axis.scale(tick);
    if (lines) {
      svg +=
          fmt::format("<line class=\"grid\" x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1}\" y2=\"{2}\"/>",
                      x, frame.top, frame.bottom);
    }
    svg +=
        fmt::format("<text class=\"tick\" x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n",
                    x, frame.bottom + 18, axis.text(tick));
  }
  return svg + fmt::format(
                   "<text class=\"label\" x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}"
                   "</text>\n",
                   (frame.left + frame.right) / 2, frame.bottom + 36, escape_html(label));
}

// Above the axis, where it takes no width and no tick can lie on it.
std::string y_label(const std::string& label, const Frame& frame) {
  return fmt::format("<text class=\"label\" x=\"{}\" y=\"{}\">{}</text>\n", 4, frame.top - 14,
                     escape_html(label));
}

// A line that the page's script moves under the pointer.
std::string pointer_rule(const Frame& frame) {
  return fmt::format("<line class=\"rule\" y1=\"{}\" y2=\"{}\" visibility=\"hidden\"/>\n",
                     frame.top, frame.bottom);
}

// Numbers of a picture, and where its plot is, for the page's script.
std::string numbers(const Frame& frame, const Axis& x, const std::string& x_name,
                    const Json& series, bool steps, Unit x_unit, Unit y_unit) {
  const auto name_of = [](Unit unit) {
    return unit == Unit::kBytes ? "bytes" : unit == Unit::kSeconds ? "seconds" : "";
  };
  const Json json{{"width", frame.width},      {"left", frame.left},      {"right", frame.right},
                  {"low", x.scale.low},        {"high", x.scale.high},    {"x", x_name},
                  {"x_unit", name_of(x_unit)}, {"unit", name_of(y_unit)}, {"holds", steps},
                  {"series", series}};
  std::string text = json.dump();
  for (size_t at = text.find('<'); at != std::string::npos; at = text.find('<', at)) {
    text.replace(at, 1, "\\u003c");  // nothing in it may end the script
  }
  return "<script type=\"application/json\">" + text + "</script>\n";
}

Json point_json(const ChartLine& line) {
  Json x = Json::array();
  Json y = Json::array();
  for (const CurvePoint& point : line.points) {
    x.push_back(point.x);
    y.push_back(std::isfinite(point.y) ? Json(point.y) : Json(nullptr));
  }
  return {{"name", line.name}, {"style", line.style}, {"x", x}, {"y", y}};
}

std::string circle(const ChartLine& line, double x, double y) {
  return fmt::format("<circle class=\"dot {}\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\"/>\n", line.style,
                     x, y);
}

// A line a stretch without breaks; a point on its own would not be seen as one. Values above the
// axis break a line, too.
std::string polylines(const ChartLine& line, const Scale& x, const Scale& y) {
  const auto is_seen = [&](size_t i) {
    return i < line.points.size() && std::isfinite(line.points[i].y) && line.points[i].y <= y.high;
  };
  std::string svg;
  for (size_t first = 0; first < line.points.size(); ++first) {
    if (!is_seen(first)) continue;
    size_t last = first;
    std::string run;
    for (; is_seen(last); ++last) {
      const CurvePoint& point = line.points[last];
      run += fmt::format("{:.1f},{:.1f} ", x(point.x), y(point.y));
      if (line.dots) svg += circle(line, x(point.x), y(point.y));
    }
    if (last - first > 1) {
      svg += fmt::format("<polyline class=\"line {}\" points=\"{}\"/>\n", line.style, run);
    } else if (!line.dots) {
      svg += circle(line, x(line.points[first].x), y(line.points[first].y));
    }
    first = last;
  }
  return svg;
}

std::string draw_legend_of(const LineChart& chart, const Scale& y) {
  if (chart.lines.size() < 2) return "";
  std::vector<LegendEntry> legend;
  for (const ChartLine& line : chart.lines) {
    const auto is_above = [&](const CurvePoint& point) { return point.y > y.high; };
    const bool above = std::all_of(line.points.begin(), line.points.end(), is_above);
    legend.push_back({line.name + (above ? ", above this picture" : ""), line.style});
  }
  return draw_legend(legend);
}

// The sums of the areas up to and with each one: [area][moment].
std::vector<std::vector<double>> stacked(const AreaChart& chart) {
  std::vector<std::vector<double>> sums;
  std::vector<double> now(chart.seconds.size(), 0.0);
  for (const ChartArea& area : chart.areas) {
    for (size_t i = 0; i < now.size(); ++i) now[i] += area.values[i];
    sums.push_back(now);
  }
  return sums;
}

// The outline of an area: along its upper edge, then back along its lower one.
std::string area_path(const AreaChart& chart, const std::vector<double>& upper,
                      const std::vector<double>* lower, const Scale& x, const Scale& y) {
  std::string path;
  const size_t count = chart.seconds.size();
  const auto end_of = [&](size_t i) { return i + 1 < count ? chart.seconds[i + 1] : chart.end; };
  for (size_t i = 0; i < count; ++i) {
    path += fmt::format("{}{:.1f},{:.1f}H{:.1f}", i == 0 ? "M" : "L", x(chart.seconds[i]),
                        y(upper[i]), x(end_of(i)));
  }
  for (size_t i = count; i-- > 0;) {
    const double edge = y(lower == nullptr ? 0.0 : (*lower)[i]);
    path += fmt::format("L{:.1f},{:.1f}H{:.1f}", x(end_of(i)), edge, x(chart.seconds[i]));
  }
  return path + "Z";
}

// Moments so close that they would fall on one another: of those the fullest is drawn.
AreaChart with_fewer_moments(const AreaChart& chart, const Frame& frame) {
  const std::vector<std::vector<double>> sums = stacked(chart);
  const double least = chart.end / (frame.right - frame.left);
  std::vector<size_t> kept;
  double from = -1;
  for (size_t i = 0; i < chart.seconds.size(); ++i) {
    const bool close = !kept.empty() && chart.seconds[i] - from < least;
    if (!close) {
      kept.push_back(i);
      from = chart.seconds[i];
    } else if (sums.back()[i] > sums.back()[kept.back()]) {
      kept.back() = i;
    }
  }
  AreaChart fewer = chart;
  fewer.seconds.clear();
  for (const size_t i : kept) fewer.seconds.push_back(chart.seconds[i]);
  if (!fewer.seconds.empty()) fewer.seconds.front() = chart.seconds.front();
  for (size_t a = 0; a < chart.areas.size(); ++a) {
    fewer.areas[a].values.clear();
    for (const size_t i : kept) fewer.areas[a].values.push_back(chart.areas[a].values[i]);
  }
  return fewer;
}

// Neighbours that are too narrow to be seen become one bar, in the style that most of it has.
std::vector<LaneBar> joined(const std::vector<LaneBar>& bars, double least) {
  std::vector<LaneBar> all;
  int together = 0;
  double longest = 0;
  for (const LaneBar& bar : bars) {
    const double seconds = bar.end - bar.begin;
    const bool join = !all.empty() && seconds < least && bar.begin - all.back().end < least / 2 &&
                      (together > 1 || longest < least) && bar.end - all.back().begin < 3 * least;
    if (!join) {
      all.push_back(bar);
      together = 1;
      longest = seconds;
      continue;
    }
    ++together;
    if (seconds > longest) {
      longest = seconds;
      all.back().style = bar.style;
    }
    all.back().end = bar.end;
    all.back().title = fmt::format("{} short ones", together);
  }
  return all;
}

std::string draw_lane(const ChartLane& lane, double top, const Scale& x, const Frame& frame) {
  std::string svg = fmt::format(
      "<text class=\"lane\" x=\"{0}\" y=\"{1}\" text-anchor=\"end\">{2}</text>"
      "<text class=\"tick\" x=\"{0}\" y=\"{3}\" text-anchor=\"end\">{4}</text>"
      "<rect class=\"track\" x=\"{5}\" y=\"{6}\" width=\"{7}\" height=\"{8}\"/>\n",
      frame.left - 10, top + 13, escape_html(lane.name), top + 27, escape_html(lane.note),
      frame.left, top, frame.right - frame.left, kLaneHeight);
  const double least = kLeastBar * (x.high - x.low) / (x.to - x.from);
  for (const LaneBar& bar : joined(lane.bars, least)) {
    const double left = x(bar.begin);
    svg += fmt::format(
        "<rect class=\"{}\" x=\"{:.2f}\" y=\"{}\" width=\"{:.2f}\" height=\"{}\"><title>{}, {}"
        "</title></rect>\n",
        bar.style, left, top, std::max(1.0, x(bar.end) - left), kLaneHeight, escape_html(bar.title),
        format_quantity(bar.end - bar.begin, Unit::kSeconds));
  }
  return svg;
}

}  // namespace

std::string escape_html(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string format_quantity(double value, Unit unit) {
  if (!std::isfinite(value)) return "-";
  switch (unit) {
    case Unit::kBytes:
      return format_byte_size(std::llround(value));
    case Unit::kSeconds: {
      const double size = std::abs(value);
      if (size >= 100) return fmt::format("{:.0f} s", value);
      if (size >= 1) return fmt::format("{:.3g} s", value);
      if (size >= 1e-3) return fmt::format("{:.3g} ms", value * 1e3);
      return fmt::format("{:.3g} µs", value * 1e6);
    }
    case Unit::kNumber:
      break;
  }
  if (std::abs(value) >= 1000 && std::abs(value) < 1e7) return fmt::format("{:.0f}", value);
  return fmt::format("{:.4g}", value);
}

std::string draw(const LineChart& chart) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  CurvePoint least{kInfinity, kInfinity};
  CurvePoint most{-kInfinity, -kInfinity};
  Json series = Json::array();
  for (const ChartLine& line : chart.lines) {
    series.push_back(point_json(line));
    for (const CurvePoint& point : line.points) {
      least.x = std::min(least.x, point.x);
      most.x = std::max(most.x, point.x);
      if (!std::isfinite(point.y) || point.y > chart.most) continue;
      least.y = std::min(least.y, point.y);
      most.y = std::max(most.y, point.y);
    }
  }
  if (!std::isfinite(least.x)) least.x = most.x = 0;
  if (!std::isfinite(least.y)) least.y = most.y = 0;
  const Axis x = step_axis(least.x, most.x, kHalf);
  const Axis y = value_axis(least.y, most.y, chart.from_zero, kHalf);
  std::string html = open_figure(chart.id, chart.title) + open_svg(kHalf, chart.title);
  html += horizontal_grid(y, kHalf) + x_ticks(x, kHalf, false, chart.x_label);
  html += y_label(chart.y_label, kHalf);
  for (const ChartLine& line : chart.lines) html += polylines(line, x.scale, y.scale);
  html += pointer_rule(kHalf) + "</svg>\n" + draw_legend_of(chart, y.scale);
  return html + numbers(kHalf, x, chart.x_label, series, false, Unit::kNumber, Unit::kNumber) +
         "</figure>\n";
}

std::string draw(const AreaChart& whole) {
  const AreaChart chart = with_fewer_moments(whole, kWide);
  const std::vector<std::vector<double>> sums = stacked(chart);
  double most = 1;
  for (const double sum : sums.back()) most = std::max(most, sum);
  // A budget far above would leave nothing to be seen of what is below.
  constexpr double kFarAbove = 1.8;
  const bool near = chart.budget > 0 && chart.budget <= kFarAbove * most;
  const Axis x = time_axis(chart.end, kWide);
  constexpr double kRoomForLabel = 1.16;
  const Axis y = byte_axis(kRoomForLabel * (near ? std::max(most, chart.budget) : most), kWide);
  std::string html = open_figure(chart.id, chart.title) + open_svg(kWide, chart.title);
  html += horizontal_grid(y, kWide);
  Json series = Json::array();
  for (size_t a = 0; a < chart.areas.size(); ++a) {
    const ChartArea& area = chart.areas[a];
    html +=
        fmt::format("<path class=\"area {}\" d=\"{}\"/>\n", area.style,
                    area_path(chart, sums[a], a == 0 ? nullptr : &sums[a - 1], x.scale, y.scale));
    series.push_back(
        {{"name", area.name}, {"style", area.style}, {"x", chart.seconds}, {"y", area.values}});
  }
  html +=
      x_ticks(x, kWide, false, "time within a step, " + x.unit_name) + y_label(y.unit_name, kWide);
  const double line = y.scale(near ? chart.budget : most);
  if (near) {
    html += fmt::format(
        "<line class=\"budget\" x1=\"{0}\" x2=\"{1}\" y1=\"{2:.1f}\" y2=\"{2:.1f}\"/>\n",
        kWide.left, kWide.right, line);
  }
  html += fmt::format(
      "<text class=\"budget-label\" x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">budget {}{}</text>\n",
      kWide.right - 4, line - 6, format_quantity(chart.budget, Unit::kBytes),
      near ? "" : ", above this picture");
  html += pointer_rule(kWide) + "</svg>\n";
  return html + numbers(kWide, x, "time", series, true, Unit::kSeconds, Unit::kBytes) +
         "</figure>\n";
}

std::string draw(const LaneChart& chart) {
  Frame frame = kWide;
  frame.bottom = frame.top + static_cast<double>(chart.lanes.size()) * (kLaneHeight + kLaneGap);
  frame.height = frame.bottom + 44;
  const Axis x = time_axis(chart.end, frame);
  std::string html = open_figure(chart.id, chart.title) + open_svg(frame, chart.title);
  html += x_ticks(x, frame, true, "time within a step, " + x.unit_name);
  html += "<g class=\"bars\">\n";
  double top = frame.top;
  for (const ChartLane& lane : chart.lanes) {
    html += draw_lane(lane, top, x.scale, frame);
    top += kLaneHeight + kLaneGap;
  }
  return html + "</g>\n</svg>\n</figure>\n";
}

std::string draw_legend(const std::vector<LegendEntry>& entries) {
  std::string html = "<ul class=\"legend\">";
  for (const LegendEntry& entry : entries) {
    html += fmt::format("<li><i class=\"{}\"></i>{}</li>", entry.style, escape_html(entry.name));
  }
  return html + "</ul>\n";
}

}  // namespace hetmem
