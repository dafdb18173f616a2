#include "core/trace.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "core/error.h"
#include "core/log.h"

namespace hetmem {
namespace {

TEST(Trace, RangesOfSeveralThreadsAreWritten) {
  const auto path = std::filesystem::temp_directory_path() / ("t" + std::to_string(getpid()));
  { const trace::Range before("main", "not recorded"); }
  trace::start();
  {
    const trace::Range outer("main", "outer");
    std::thread other([] { const trace::Range inner("other", "inner"); });
    other.join();
    trace::counter("bytes", 42);
  }
  trace::write(path.string());
  EXPECT_FALSE(trace::enabled());
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  std::filesystem::remove(path);
  EXPECT_NE(text.str().find("\"outer\""), std::string::npos);
  EXPECT_NE(text.str().find("\"inner\""), std::string::npos);
  EXPECT_NE(text.str().find("42"), std::string::npos);
  EXPECT_EQ(text.str().find("not recorded"), std::string::npos);
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
