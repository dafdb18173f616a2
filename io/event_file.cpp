#include "io/event_file.h"

#include <array>
#include <bit>

namespace hetmem {
namespace {

static_assert(std::endian::native == std::endian::little, "numbers are written as they are");

constexpr std::array<uint32_t, 256> kCrcTable = [] {
  constexpr uint32_t kReversedPolynomial = 0x82f63b78;
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < table.size(); ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? kReversedPolynomial : 0);
    table[byte] = crc;
  }
  return table;
}();

// A sum over bytes that hold their own sum would be weak, so that records store it masked.
uint32_t masked_crc(std::string_view bytes) { return std::rotr(crc32c(bytes), 15) + 0xa282ead8U; }

template <typename Number>
std::string raw(Number number) {
  const auto bytes = std::bit_cast<std::array<char, sizeof(Number)>>(number);
  return {bytes.data(), bytes.size()};
}

// Protobuf's wire format: a key (field number, wire type) and its value.
enum WireType { kVarint = 0, kFixed64 = 1, kDelimited = 2, kFixed32 = 5 };

std::string varint(uint64_t number) {
  std::string text;
  for (; number >= 0x80; number >>= 7) text += static_cast<char>((number & 0x7f) | 0x80);
  return text += static_cast<char>(number);
}
std::string key(int field, WireType type) {
  return varint(static_cast<uint64_t>(field) << 3 | static_cast<uint64_t>(type));
}
std::string integer_field(int field, int64_t value) {
  return key(field, kVarint) + varint(static_cast<uint64_t>(value));
}
std::string bytes_field(int field, std::string_view value) {
  return key(field, kDelimited) + varint(value.size()) + std::string(value);
}

// Event: wall_time = 1, step = 2, file_version = 3, summary = 5, session_log = 7.
std::string event_head(double wall_time, int64_t step) {
  return key(1, kFixed64) + raw(wall_time) + integer_field(2, step);
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  uint32_t crc = ~0U;
  for (const char byte : bytes) {
    crc = (crc >> 8) ^ kCrcTable[(crc ^ static_cast<uint8_t>(byte)) & 0xff];
  }
  return ~crc;
}

EventFile::EventFile(const std::string& path, double wall_time) : file_(File::create(path)) {
  append(event_head(wall_time, 0) + bytes_field(3, "brain.Event:2"));
}

void EventFile::write_scalars(double wall_time, int64_t step, std::span<const Scalar> scalars) {
  std::string summary;  // Summary: value = 1; of which tag = 1, simple_value = 2
  for (const Scalar& scalar : scalars) {
    summary += bytes_field(
        1, bytes_field(1, scalar.tag) + key(2, kFixed32) + raw(static_cast<float>(scalar.value)));
  }
  append(event_head(wall_time, step) + bytes_field(5, summary));
}

void EventFile::write_restart(double wall_time, int64_t step) {
  constexpr int64_t kStart = 1;  // SessionLog: status = 1
  append(event_head(wall_time, step) + bytes_field(7, integer_field(1, kStart)));
}

void EventFile::append(const std::string& event) {
  const std::string length = raw(static_cast<uint64_t>(event.size()));
  const std::string record = length + raw(masked_crc(length)) + event + raw(masked_crc(event));
  file_.write(end_, record.data(), static_cast<int64_t>(record.size()));
  end_ += static_cast<int64_t>(record.size());
}

}  // namespace hetmem
