#include "runtime/run_report.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>

#include "runtime/svg_chart.h"
#include "tests/runtime/tiny_models.h"

namespace hetmem {
namespace {

TEST(RunMetrics, AreReadLineByLine) {
  const TemporaryFolder folder;
  const std::string path = folder.path() + "/metrics.jsonl";
  EXPECT_EQ(read_metrics(path).steps, 0);
  std::ofstream(path)
      << R"({"step":1,"loss":2.5,"grad_norm":1,"learning_rate":0.5,"seconds":4,)"
      << R"("tokens_per_second":8,"exposed_copy_seconds":0.25,)"
      << R"("fraction_of_bound":0.75,"traffic":{"to_device":10,"to_host":20,"disk_write":40},)"
      << R"("memory":{"device":{"peak":5,"budget":6},"host":{"peak":7,"budget":8},"disk":9}})"
      << "\n{\"step\":1,\"eval_loss\":3.5}\n"
      << "{\"step\":2,\"loss\":null,\"grad_norm\":null,\"skipped\":true}\n"
      << "{\"step\":3,\"lo";
  const RunMetrics metrics = read_metrics(path);
  EXPECT_EQ(metrics.steps, 2);
  ASSERT_EQ(metrics.recent.size(), 2u);
  EXPECT_EQ(metrics.recent[0].loss, 2.5);
  EXPECT_EQ(metrics.recent[0].exposed_copy_seconds, 0.25);
  EXPECT_EQ(metrics.recent[0].fraction_of_bound, 0.75);
  EXPECT_EQ(metrics.recent[0].to_host, 20);
  EXPECT_EQ(metrics.recent[0].disk_write, 40);
  EXPECT_EQ(metrics.recent[0].device.peak, 5);
  EXPECT_EQ(metrics.recent[0].host.budget, 8);
  EXPECT_EQ(metrics.recent[0].disk.peak, 0);
  EXPECT_EQ(metrics.bound.points()[0].y, 8 / 0.75);
  EXPECT_TRUE(std::isnan(metrics.loss.points()[1].y));
  ASSERT_EQ(metrics.evaluation_loss.points().size(), 1u);
  EXPECT_EQ(metrics.evaluation_loss.points()[0].y, 3.5);
}

TEST(RunMetrics, TheMedianIsThatOfTheLastSteps) {
  RunMetrics metrics;
  EXPECT_EQ(metrics.recent_median(&StepMetrics::seconds), 0);
  for (int i = 1; i <= 100; ++i) {
    StepMetrics step;
    step.seconds = i % 2 == 0 ? i : -i;
    metrics.add(step);
  }
  // -99, -97, -95, -93, 94, 96, 98, 100: the upper of the two in the middle.
  EXPECT_EQ(metrics.recent_median(&StepMetrics::seconds), 94);
}

bool has(const std::vector<CurvePoint>& points, double x, double y) {
  return std::any_of(points.begin(), points.end(),
                     [&](const CurvePoint& p) { return p.x == x && p.y == y; });
}

// Peaks and both ends of a long curve are still there, however long it grows.
TEST(BoundedCurve, KeepsWhatIsSeen) {
  BoundedCurve curve;
  for (int i = 1; i <= 100'000; ++i) {
    const double y = i == 54'322 ? 77 : i == 12'346 ? -66 : std::sin(i * 1e-3);
    curve.add(i, y);
    if (i == 800) {
      EXPECT_EQ(curve.points().size(), 800u);
    }
    if (i % 7919 == 0 || (i > 790 && i < 830)) {
      const std::vector<CurvePoint> few = curve.points();
      EXPECT_LE(few.size(), 800u) << i;
      EXPECT_GE(few.size(), 200u) << i;  // 4 points a stretch, 2 where it only rises
      EXPECT_EQ(few.front().x, 1);
      EXPECT_EQ(few.back().x, i);
    }
  }
  const std::vector<CurvePoint> few = curve.points();
  EXPECT_TRUE(has(few, 54'322, 77));
  EXPECT_TRUE(has(few, 12'346, -66));
  EXPECT_TRUE(std::is_sorted(few.begin(), few.end(),
                             [](const CurvePoint& a, const CurvePoint& b) { return a.x < b.x; }));
}

TEST(BoundedCurve, MeansAreOfWhatIsFinite) {
  BoundedCurve curve;
  for (int i = 1; i <= 1600; ++i) curve.add(i, i % 2 == 0 ? std::nan("") : 5.0 + i / 801);
  const std::vector<CurvePoint> means = curve.means();
  ASSERT_EQ(means.size(), 200u);  // of 8 steps
  EXPECT_EQ(means.front().x, 8);
  EXPECT_EQ(means.front().y, 5);
  EXPECT_EQ(means.back().y, 6);
  for (const CurvePoint& point : curve.points()) {
    EXPECT_TRUE(std::isnan(point.y) == (static_cast<int>(point.x) % 2 == 0));
  }
}

TEST(FormatQuantity, HasUnits) {
  EXPECT_EQ(format_quantity(1536, Unit::kBytes), "1.50 KiB");
  EXPECT_EQ(format_quantity(0.0123, Unit::kSeconds), "12.3 ms");
  EXPECT_EQ(format_quantity(4.5e-6, Unit::kSeconds), "4.5 µs");
  EXPECT_EQ(format_quantity(123.4, Unit::kSeconds), "123 s");
  EXPECT_EQ(format_quantity(54321.4, Unit::kNumber), "54321");
  EXPECT_EQ(format_quantity(std::nan(""), Unit::kNumber), "-");
  EXPECT_EQ(escape_html("<a href=\"x\">&</a>"), "&lt;a href=&quot;x&quot;&gt;&amp;&lt;/a&gt;");
}

TEST(TimesByKind, AddUp) {
  const OpKindTimes times =
      times_by_kind({"linear a", "linear_backward_input a", "linear b",
                     "norm of the gradients of chunk 0", "norm of the gradients of chunk 1"},
                    {1, 2, 4, 8, 16});
  ASSERT_EQ(times.size(), 3u);
  EXPECT_EQ(times.at("linear").calls, 2);
  EXPECT_EQ(times.at("linear").seconds, 5);
  EXPECT_EQ(times.at("linear backward input").seconds, 2);
  EXPECT_EQ(times.at("gradient norms").seconds, 24);
}

// A long run of a step with very many short ops.
TEST(RunReport, StaysSmall) {
  RunReport report;
  for (int i = 1; i <= 100'000; ++i) {
    StepMetrics step;
    step.step = i;
    step.loss = 3 + std::exp(-i * 1e-4) + 0.1 * std::sin(i * 1.7);
    step.grad_norm = 1.0 / 3 + std::cos(i * 0.9);
    step.learning_rate = 1e-3 * std::cos(i * 1e-5);
    step.seconds = 0.1 + 1e-3 * std::sin(i);
    step.tokens_per_second = 100 / step.seconds;
    step.fraction_of_bound = 0.7 + 0.01 * std::sin(i * 0.3);
    report.metrics.add(step);
    report.metrics.evaluation_loss.add(i, step.loss);
  }
  constexpr int kOps = 20'000;
  report.step.timeline.seconds = 1;
  for (int op = 0; op < kOps; ++op) {
    report.step.op_names.push_back("linear model.layers." + std::to_string(op) + ".mlp.up_proj");
    report.step.plan.actions.push_back({Action::Kind::kOp, Lane::kCompute, op, {}});
    const double begin = op * 1.0 / kOps;
    report.step.timeline.lanes[0].push_back({op, begin, begin + 0.9 / kOps});
    BytesByKind bytes{};
    bytes[3] = 1'000'000'000 + op;
    bytes[4] = 7'000 * (op % 100);
    report.step.timeline.device.samples.push_back({begin, bytes});
  }
  report.step.timeline.device.reserved = 1'100'000'000;
  report.step.timeline.host = report.step.timeline.device;
  const std::string html = to_html(report);
  EXPECT_LT(html.size(), 1'000'000u);
  EXPECT_NE(html.find("id=\"chart-host\""), std::string::npos);
}

}  // namespace
}  // namespace hetmem
