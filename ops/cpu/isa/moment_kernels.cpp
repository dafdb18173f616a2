// Adam's moments in 8 bits: a block to fp32 and back (ops/moment_code.h). ops/cuda/moments.cu has
// the same operations.
#include <immintrin.h>

#include <bit>
#include <cstdint>
#include <limits>

#include "ops/cpu/isa/row_kernels.h"
#include "ops/cpu/isa/vector_math.h"

namespace hetmem::ops::cpu::HETMEM_ISA {
namespace {

// As many whole numbers as a Vector has floats. Both are vectors of the compiler's, so that
// operators work on them; comparisons give -1 and 0.
using Integers [[gnu::vector_size(sizeof(Vector))]] = int32_t;

inline Integers bits_of(Vector x) { return std::bit_cast<Integers>(x); }
inline Vector of_bits(Integers x) { return std::bit_cast<Vector>(x); }
inline Integers integers(int32_t x) { return Integers{} + x; }
inline Vector to_float(Integers x) { return __builtin_convertvector(x, Vector); }
inline Integers truncated(Vector x) { return __builtin_convertvector(x, Integers); }
inline Vector magnitude(Vector x) { return of_bits(bits_of(x) & INT32_MAX); }
inline Vector least(Vector a, Vector b) { return a < b ? a : b; }
inline Vector most(Vector a, Vector b) { return a > b ? a : b; }
inline Integers count_if(Integers count, Vector a, Vector b) {  // + 1 where a <= b
  return count - (a <= b);
}

// A table of kMomentLevels entries, looked up by the lowest bits of an index; bytes, as whole
// numbers.
#ifdef __AVX512F__
constexpr __mmask16 kAll = 0xffff;
struct Table {
  explicit Table(const float* from)
      : entries(_mm512_maskz_broadcast_f32x8(kAll, _mm256_loadu_ps(from))) {}
  Vector operator[](Integers index) const {
    return _mm512_maskz_permutexvar_ps(kAll, std::bit_cast<__m512i>(index), entries);
  }
  Vector entries;
};
inline Integers load_bytes(const uint8_t* from) {
  return std::bit_cast<Integers>(
      _mm512_maskz_cvtepu8_epi32(kAll, _mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
}
inline void store_bytes(uint8_t* to, const Integers (&four)[4]) {
  for (int i = 0; i < 4; ++i) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i * kVectorWidth),
                     _mm512_maskz_cvtepi32_epi8(kAll, std::bit_cast<__m512i>(four[i])));
  }
}
#else
struct Table {
  explicit Table(const float* from) : entries(_mm256_loadu_ps(from)) {}
  Vector operator[](Integers index) const {
    return _mm256_permutevar8x32_ps(entries, std::bit_cast<__m256i>(index));
  }
  Vector entries;
};
inline Integers load_bytes(const uint8_t* from) {
  return std::bit_cast<Integers>(
      _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
}
inline void store_bytes(uint8_t* to, const Integers (&four)[4]) {
  const auto at = [&four](int i) { return std::bit_cast<__m256i>(four[i]); };
  const __m256i words =
      _mm256_packus_epi16(_mm256_packus_epi32(at(0), at(1)), _mm256_packus_epi32(at(2), at(3)));
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permutevar8x32_epi32(words, order));
}
#endif

template <bool kHasSign>
void decode(const MomentCode& code, const uint8_t* codes, float scale, float* x) {
  const Table base(code.base);
  const Table step(code.step);
  const Vector apart = spread(code.apart);
  const Vector apart_value = spread(code.apart_value);
  for (int64_t i = 0; i < kMomentBlock; i += kVectorWidth) {
    const Integers offset = load_bytes(codes + i) - code.middle;
    const Vector s = to_float(kHasSign ? (offset < 0 ? -offset : offset) : offset);
    const Integers line = bits_of(s) >> 23;
    const Vector on_line = step[line] * s + base[line];
    const Vector value = (s == apart ? apart_value : on_line) * spread(scale);
    store(x + i, kHasSign ? of_bits(bits_of(value) | (offset & INT32_MIN)) : value);
  }
}

template <bool kHasSign>
class Encoder {
 public:
  Encoder(const MomentCode& of, float inverse_scale)
      : inverse_(spread(inverse_scale)),
        slope_(of.slope),
        shift_(of.shift),
        most_(of.most),
        middle_(of.middle),
        lowest_(integers(-of.lowest)) {
    for (int i = 0; i < kMomentLevels; ++i) at_least_[i] = spread(of.at_least[i]);
  }

  Integers operator()(Vector x) const {
    const Vector fraction = magnitude(x) * inverse_;
    Integers level = integers(0);
    for (int i = 0; i + 1 < kMomentLevels; ++i) level = count_if(level, at_least_[i], fraction);
    const Vector exact = fraction * slope_[level] + shift_[level];
    const Integers within = truncated(least(exact, most_[level]));
    const Integers s = count_if(within, at_least_[kMomentLevels - 1], fraction);
    if (!kHasSign) return s + middle_;
    const Integers sign = bits_of(x) >> 31;  // -1 or 0
    const Integers offset = (s ^ sign) - sign;
    return (offset > lowest_ ? offset : lowest_) + middle_;
  }

 private:
  Vector inverse_;
  Vector at_least_[kMomentLevels];
  Table slope_;
  Table shift_;
  Table most_;
  int32_t middle_;
  Integers lowest_;
};

template <bool kHasSign>
void encode(const MomentCode& code, const float* x, float inverse_scale, uint8_t* codes) {
  const Encoder<kHasSign> encoder(code, inverse_scale);
  for (int64_t i = 0; i < kMomentBlock; i += 4 * kVectorWidth) {
    Integers four[4];
    for (int64_t j = 0; j < 4; ++j) four[j] = encoder(load(x + i + j * kVectorWidth));
    store_bytes(codes + i, four);
  }
}

float largest_magnitude(const float* x) {
  Vector found = spread(0.0F);
  for (int64_t i = 0; i < kMomentBlock; i += kVectorWidth) {
    found = most(found, magnitude(load(x + i)));
  }
  float largest = found[0];
  for (int i = 1; i < kVectorWidth; ++i) largest = found[i] > largest ? found[i] : largest;
  return largest;
}

}  // namespace

void decode_moments(const MomentCode& code, const uint8_t* codes, float scale, float* x) {
  return code.has_sign ? decode<true>(code, codes, scale, x) : decode<false>(code, codes, scale, x);
}

float encode_moments(const MomentCode& code, const float* x, uint8_t* codes) {
  const float magnitude = largest_magnitude(x);
  const bool counts = magnitude >= std::numeric_limits<float>::min();
  const float inverse = counts ? 1.0F / magnitude : 0.0F;
  code.has_sign ? encode<true>(code, x, inverse, codes) : encode<false>(code, x, inverse, codes);
  return counts ? magnitude : 0.0F;
}

}  // namespace hetmem::ops::cpu::HETMEM_ISA
