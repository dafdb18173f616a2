#include "core/dtype.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/byte_size.h"
#include "core/error.h"

namespace hetmem {
namespace {

// The nearest of all 65536 values, ties to the even code: what rounding means, by search.
uint16_t nearest_code(float value, float (*decode)(uint16_t)) {
  uint16_t best = 0;
  double best_distance = std::numeric_limits<double>::infinity();
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  for (uint32_t code = 0; code < 0x8000; ++code) {
    const float candidate = decode(static_cast<uint16_t>(sign | code));
    if (!std::isfinite(candidate)) continue;
    const double distance = std::abs(static_cast<double>(candidate) - value);
    if (distance < best_distance || (distance == best_distance && code % 2 == 0)) {
      best_distance = distance;
      best = static_cast<uint16_t>(sign | code);
    }
  }
  return best;
}

TEST(BFloat16, RoundsToNearestEven) {
  for (const float value : {0.0F, -0.0F, 1.0F, 1.00390625F, 1.01171875F, -3.14159F, 1e-40F,
                            65280.5F, 0x1.01p0F, 0x1.03p0F, 0x1.010002p0F}) {
    EXPECT_EQ(bf16_from_float(value), nearest_code(value, float_from_bf16)) << value;
  }
  EXPECT_TRUE(std::isinf(float_from_bf16(bf16_from_float(std::numeric_limits<float>::infinity()))));
  EXPECT_TRUE(std::isnan(float_from_bf16(bf16_from_float(std::bit_cast<float>(0x7f800001U)))));
}

TEST(Float16, RoundsToNearestEvenWithSubnormals) {
  for (const float value : {0.0F, 1.0F, 1.00048828125F, 1.00146484375F, 6.0e-8F, 2.9e-8F, 3.1e-8F,
                            6.1e-5F, 1234.5F, -2049.0F, -2051.0F, 65504.0F, 65519.0F}) {
    EXPECT_EQ(fp16_from_float(value), nearest_code(value, float_from_fp16)) << value;
  }
  EXPECT_TRUE(std::isinf(float_from_fp16(fp16_from_float(65520.0F))));
  for (uint32_t code = 0; code < 0x10000; ++code) {
    const float value = float_from_fp16(static_cast<uint16_t>(code));
    if (!std::isnan(value)) {
      EXPECT_EQ(fp16_from_float(value), code);
    }
  }
}

TEST(DType, NamesOfSafetensors) {
  for (const auto* name : {"F32", "BF16", "F16", "F64", "I64", "I32", "U8", "BOOL", "F8_E4M3"}) {
    EXPECT_EQ(safetensors_name(dtype_from_safetensors(name)), name);
  }
  EXPECT_THROW(dtype_from_safetensors("F31"), Error);
}

TEST(ByteSize, UnitsOfPowersOfTwoAndOfTen) {
  EXPECT_EQ(parse_byte_size("4096"), 4096);
  EXPECT_EQ(parse_byte_size("1.5GiB"), int64_t{1610612736});
  EXPECT_EQ(parse_byte_size("2GB"), int64_t{2000000000});
  EXPECT_EQ(parse_byte_size("512 MiB"), int64_t{536870912});
  EXPECT_EQ(parse_byte_size("0"), 0);
  EXPECT_EQ(parse_byte_size("4096.0"), 4096);
  EXPECT_EQ(parse_byte_size("0.3KiB"), 307);
  for (const char* part : {"1.5", "0.5B", "4096.001"}) {
    EXPECT_THROW(parse_byte_size(part), Error) << part;
  }
  for (const auto* bad : {"", "-1", "1XB", "GiB", "1e400GiB", "nan", "9999999999GiB", "1.5.2MiB"}) {
    EXPECT_THROW(parse_byte_size(bad), Error) << bad;
  }
}

}  // namespace
}  // namespace hetmem
