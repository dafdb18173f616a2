#include "core/dtype.h"

#include <array>
#include <cmath>
#include <string>

#include "core/error.h"

namespace hetmem {
namespace {

struct DTypeRow {
  DType dtype;
  int64_t size;
  std::string_view safetensors;
  std::string_view name;
};

constexpr std::array<DTypeRow, 15> kRows{{
    {DType::kFloat32, 4, "F32", "float32"},
    {DType::kBFloat16, 2, "BF16", "bfloat16"},
    {DType::kFloat16, 2, "F16", "float16"},
    {DType::kFloat64, 8, "F64", "float64"},
    {DType::kInt64, 8, "I64", "int64"},
    {DType::kInt32, 4, "I32", "int32"},
    {DType::kInt16, 2, "I16", "int16"},
    {DType::kInt8, 1, "I8", "int8"},
    {DType::kUint8, 1, "U8", "uint8"},
    {DType::kUint16, 2, "U16", "uint16"},
    {DType::kUint32, 4, "U32", "uint32"},
    {DType::kUint64, 8, "U64", "uint64"},
    {DType::kBool, 1, "BOOL", "bool"},
    {DType::kFloat8E4M3, 1, "F8_E4M3", "float8_e4m3"},
    {DType::kFloat8E5M2, 1, "F8_E5M2", "float8_e5m2"},
}};

const DTypeRow& row_of(DType dtype) { return kRows.at(static_cast<size_t>(dtype)); }

}  // namespace

int64_t size_of(DType dtype) { return row_of(dtype).size; }
std::string_view safetensors_name(DType dtype) { return row_of(dtype).safetensors; }
std::string_view name_of(DType dtype) { return row_of(dtype).name; }

DType dtype_from_safetensors(std::string_view name) {
  for (const DTypeRow& row : kRows) {
    if (row.safetensors == name) return row.dtype;
  }
  throw Error(ErrorKind::kBadInput, "dtype \"" + std::string(name) +
                                        "\" is not one of safetensors' dtypes that hetmem reads");
}

uint16_t fp16_from_float(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000U);
  const uint32_t magnitude = bits & 0x7fffffffU;
  if (magnitude > 0x7f800000U) return static_cast<uint16_t>(sign | 0x7e00U);
  if (magnitude >= 0x47800000U) return static_cast<uint16_t>(sign | 0x7c00U);
  if (magnitude < 0x38800000U) {
    // Subnormal half: one unit is 2^-24, and the scaling is exact, so nearbyint rounds once.
    const float units = std::bit_cast<float>(magnitude) * 16777216.0F;
    return static_cast<uint16_t>(sign | static_cast<uint16_t>(std::nearbyint(units)));
  }
  const uint32_t rounded = magnitude + 0xfffU + ((magnitude >> 13) & 1U);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000U) >> 13));
}

float float_from_fp16(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000U) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1fU;
  const uint32_t fraction = bits & 0x3ffU;
  if (exponent == 0x1fU) return std::bit_cast<float>(sign | 0x7f800000U | (fraction << 13));
  if (exponent == 0) {
    const float magnitude = static_cast<float>(fraction) * 5.9604644775390625e-08F;  // 2^-24
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
  }
  return std::bit_cast<float>(sign | ((exponent + 112U) << 23) | (fraction << 13));
}

}  // namespace hetmem
