// The pictures of the run report as SVG inside of HTML figures: curves over the steps, stacked
// areas and lanes over one step. Colours are classes of the page's style sheet. Pure; thread-safe.
//
//   LineChart chart{"loss", "Loss", "step", "", Unit::kNumber, {{"loss", "raw", points}}};
//   page += draw(chart);
//
// Beside each picture lie its numbers as JSON (<script type="application/json">), which the page's
// script shows under the pointer.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/bounded_curve.h"

namespace hetmem {

// For text and for attributes in double quotes.
std::string escape_html(std::string_view text);

enum class Unit : uint8_t { kNumber, kBytes, kSeconds };
// "1.50 GiB", "12.3 ms", "4.25".
std::string format_quantity(double value, Unit unit);

struct ChartLine {
  std::string name;
  std::string style;  // class
  std::vector<CurvePoint> points;
  bool dots = false;
};

struct LineChart {
  std::string id;
  std::string title;
  std::string x_label;
  std::string y_label;
  std::vector<ChartLine> lines;
  bool from_zero = false;  // else the axis begins near the least value
  // Values above do not stretch the axis.
  double most = std::numeric_limits<double>::infinity();
};

// Values that hold from `seconds[i]` until the next moment, stacked from below.
struct ChartArea {
  std::string name;
  std::string style;
  std::vector<double> values;
};

struct AreaChart {
  std::string id;
  std::string title;
  std::vector<double> seconds;
  double end = 0;
  std::vector<ChartArea> areas;
  double budget = 0;  // a line, where it is near enough to be seen beside the areas
};

struct LaneBar {
  double begin = 0;
  double end = 0;
  std::string style;
  std::string title;
};

struct ChartLane {
  std::string name;
  std::string note;  // below the name
  std::vector<LaneBar> bars;
};

struct LaneChart {
  std::string id;
  std::string title;
  double end = 0;
  std::vector<ChartLane> lanes;
};

struct LegendEntry {
  std::string name;
  std::string style;
};

std::string draw(const LineChart& chart);
std::string draw(const AreaChart& chart);
std::string draw(const LaneChart& chart);
std::string draw_legend(const std::vector<LegendEntry>& entries);

}  // namespace hetmem
