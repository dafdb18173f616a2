#include "io/event_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <filesystem>

#include "core/error.h"

namespace hetmem {
namespace {

// The vectors of RFC 3720, B.4, and the check value of the catalogue of CRCs.
TEST(EventFile, CrcIsThatOfTheRfc) {
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aaU);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43U);
  EXPECT_EQ(crc32c("123456789"), 0xe3069283U);
  EXPECT_EQ(crc32c(""), 0U);
}

// Put together by hand from the field numbers of event.proto and summary.proto; the masked sum of
// the eight bytes of a length is by the formula of record_writer.h.
TEST(EventFile, BytesAreThoseOfTheFormat) {
  const std::string path =
      (std::filesystem::temp_directory_path() / ("hetmem-events-" + std::to_string(getpid())))
          .string();
  EventFile events(path, 1.0);
  events.write_restart(1.0, 300);
  events.write_scalars(1.0, 300, std::array{Scalar{"a/b", 2.5}});
  const std::string content = read_text_file(path);
  std::filesystem::remove(path);

  const std::string time("\x09\x00\x00\x00\x00\x00\x00\xf0\x3f", 9);  // field 1, 1.0 as a double
  const std::string step("\x10\xac\x02", 3);                          // field 2, 300 as a varint
  const std::array<std::string, 3> expected{
      time + std::string("\x10\x00\x1a\x0d", 4) + "brain.Event:2",
      time + step + std::string("\x3a\x02\x08\x01", 4),  // session_log { status: START }
      time + step + std::string("\x2a\x0c\x0a\x0a\x0a\x03", 6) + "a/b" +
          std::string("\x15\x00\x00\x20\x40", 5)};  // simple_value 2.5F
  size_t at = 0;
  for (const std::string& event : expected) {
    std::string length(8, '\0');
    length[0] = static_cast<char>(event.size());
    const auto check = [&](std::string_view bytes, size_t position) {
      const uint32_t crc = crc32c(bytes);
      const uint32_t masked = ((crc >> 15) | (crc << 17)) + 0xa282ead8U;
      for (unsigned byte = 0; byte < 4; ++byte) {
        EXPECT_EQ(static_cast<uint8_t>(content.at(position + byte)),
                  static_cast<uint8_t>(masked >> (8 * byte)));
      }
    };
    EXPECT_EQ(content.substr(at, 8), length);
    check(length, at + 8);
    EXPECT_EQ(content.substr(at + 12, event.size()), event);
    check(event, at + 12 + event.size());
    at += event.size() + 16;
  }
  EXPECT_EQ(at, content.size());
}

TEST(EventFile, AFullDiskIsAnErrorOfTheStorage) {
  try {
    const EventFile events("/dev/full", 1.0);
    FAIL() << "wrote to a full device";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kStorage);
    EXPECT_NE(std::string(error.what()).find("/dev/full"), std::string::npos);
  }
}

}  // namespace
}  // namespace hetmem
