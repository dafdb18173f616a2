// Element types and the host-side bf16 and fp16 conversions. Stateless and thread-safe.
#pragma once

#include <bit>
#include <cstdint>
#include <string_view>

namespace hetmem {

enum class DType : uint8_t {
  kFloat32,
  kBFloat16,
  kFloat16,
  kFloat64,
  kInt64,
  kInt32,
  kInt16,
  kInt8,
  kUint8,
  kUint16,
  kUint32,
  kUint64,
  kBool,
  kFloat8E4M3,
  kFloat8E5M2,
};

// Bytes of one element.
int64_t size_of(DType dtype);
// The name used in safetensors headers: "F32", "BF16", ...
std::string_view safetensors_name(DType dtype);
// The name used in messages and configurations: "float32", "bfloat16", ...
std::string_view name_of(DType dtype);
// Throws Error (kBadInput) where the name is none of safetensors' dtypes.
DType dtype_from_safetensors(std::string_view name);

// bf16 as raw bits; float -> bf16 rounds to nearest even, a NaN stays a (quiet) NaN.
inline uint16_t bf16_from_float(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffU) > 0x7f800000U) return static_cast<uint16_t>((bits >> 16) | 0x40U);
  return static_cast<uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}
inline float float_from_bf16(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}
// IEEE half precision, round to nearest even, subnormals kept.
uint16_t fp16_from_float(float value);
float float_from_fp16(uint16_t bits);

}  // namespace hetmem
