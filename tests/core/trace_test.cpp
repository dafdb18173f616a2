#include "core/trace.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "core/error.h"
#include "core/log.h"

namespace hetmem {
namespace {

std::string written(const std::vector<trace::Process>& beside = {}) {
  const auto path = std::filesystem::temp_directory_path() / ("t" + std::to_string(getpid()));
  trace::write(path.string(), beside);
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  std::filesystem::remove(path);
  return text.str();
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(Trace, RangesOfSeveralThreadsAreWritten) {
  { const trace::Range before("main", "not recorded"); }
  trace::start();
  {
    const trace::Range outer("main", "outer");
    std::thread other([] { const trace::Range inner("other", "inner"); });
    other.join();
    trace::counter("bytes", 42);
  }
  const std::string text = written();
  EXPECT_FALSE(trace::enabled());
  EXPECT_TRUE(has(text, "\"outer\"") && has(text, "\"inner\"") && has(text, "42"));
  EXPECT_FALSE(has(text, "not recorded"));
}

TEST(Trace, KeepsTheNewest) {
  trace::start(3);
  for (int i = 0; i < 5; ++i) trace::counter("c" + std::to_string(i), i);
  const std::string text = written();
  EXPECT_FALSE(has(text, "\"c0\"") || has(text, "\"c1\""));
  EXPECT_TRUE(has(text, "\"c2\"") && has(text, "\"c3\"") && has(text, "\"c4\""));
}

TEST(Trace, WhatWasPlannedIsAProcessOfItsOwn) {
  trace::start();
  { const trace::Range range("lane", "ran"); }
  const std::string text = written(
      {{"plan", {{"lane", "planned", 0.5, 0.25}}, {{"memory", 0.125, {{"a", 7}, {"b", 9}}}}}});
  EXPECT_TRUE(has(text, R"({"pid":2,"ph":"M","name":"process_name","args":{"name":"plan"}})"));
  EXPECT_TRUE(
      has(text, R"({"pid":2,"ph":"X","tid":1,"name":"planned","ts":500000.000,"dur":250000.000})"));
  EXPECT_TRUE(
      has(text, R"({"pid":2,"ph":"C","name":"memory","ts":125000.000,"args":{"a":7,"b":9}})"));
  EXPECT_TRUE(has(text, R"({"pid":1,"ph":"M","name":"process_name","args":{"name":"hetmem"}})"));
}

// Of a thread of the format, which wants it.
TEST(Trace, SlicesThatCrossAreOnFurtherTracks) {
  trace::start();
  const std::string text = written({{"plan",
                                     {{"a", "first", 0, 4},
                                      {"a", "inner", 1, 3},
                                      {"a", "crosses", 2, 3},
                                      {"a", "crosses both", 2.5, 3},
                                      {"a", "in the second", 3.5, 1},
                                      {"a", "after", 6, 1},
                                      {"b", "other", 0, 9}},
                                     {}}});
  const auto track_of = [&](const std::string& slice) {
    const std::string line = text.substr(0, text.find("\"" + slice + "\""));
    const std::string tid = line.substr(line.rfind("\"tid\":"));
    const size_t name = text.find(tid + "\"thread_name\"");
    return text.substr(name, text.find('}', name) - name);
  };
  for (const char* slice : {"first", "inner", "after"}) {
    EXPECT_TRUE(has(track_of(slice), R"({"name":"a")")) << slice;
  }
  EXPECT_TRUE(has(track_of("crosses"), R"-({"name":"a (2)")-"));
  EXPECT_TRUE(has(track_of("in the second"), R"-({"name":"a (2)")-"));
  EXPECT_TRUE(has(track_of("crosses both"), R"-({"name":"a (3)")-"));
  EXPECT_TRUE(has(track_of("other"), R"({"name":"b")"));
}

TEST(Trace, AFolderThatIsNotThereIsAnError) {
  trace::start();
  EXPECT_THROW(trace::write("/nowhere/at/all.json"), Error);
}

TEST(Log, GoesToTheSinkAlone) {
  std::string seen;
  set_log_sink([&](LogLevel, std::string_view message) { seen += message; });
  log(LogLevel::kWarning, "careful");
  set_log_sink({});
  log(LogLevel::kWarning, "dropped");
  EXPECT_EQ(seen, "careful");
}

TEST(Error, KindsAreTheExitCodesOfTheContract) {
  EXPECT_EQ(exit_code(ErrorKind::kBadInput), 2);
  EXPECT_EQ(exit_code(ErrorKind::kDoesNotFit), 3);
  EXPECT_EQ(exit_code(ErrorKind::kStorage), 4);
  EXPECT_EQ(exit_code(ErrorKind::kCorrupt), 4);
  EXPECT_EQ(exit_code(ErrorKind::kNonFinite), 5);
  EXPECT_THROW(HETMEM_ASSERT(1 == 2), Error);
}

}  // namespace
}  // namespace hetmem
