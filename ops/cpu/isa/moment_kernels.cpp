// Adam's moments in 8 bits: a block to fp32 and back (ops/moment_code.h). ops/cuda/moments.cu has
// the same operations.
#include <immintrin.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>

#include "ops/cpu/isa/adamw.h"
#include "ops/cpu/isa/row_kernels.h"
#include "ops/cpu/isa/vector_math.h"

namespace hetmem::ops::cpu::HETMEM_ISA {
namespace {

// As many whole numbers as a Vector has floats. Both are vectors of the compiler's, so that
// operators work on them; comparisons give -1 and 0.
using Integers [[gnu::vector_size(sizeof(Vector))]] = int32_t;

inline Integers bits_of(Vector x) { return std::bit_cast<Integers>(x); }
inline Vector of_bits(Integers x) { return std::bit_cast<Vector>(x); }
inline Vector to_float(Integers x) { return __builtin_convertvector(x, Vector); }
inline Vector magnitude(Vector x) { return of_bits(bits_of(x) & INT32_MAX); }

// The weights that are stepped: fp32, or split masters (core/split_master.h).
struct WholeWeights {
  Vector get(int64_t i) const { return load(w + i); }
  void set(int64_t i, Vector x) const { store(w + i, x); }
  void prefetch(int64_t i) const { __builtin_prefetch(w + i); }
  float* w;
};
struct SplitWeights {
  Vector get(int64_t i) const;
  void set(int64_t i, Vector x) const;
  void prefetch(int64_t i) const {
    __builtin_prefetch(hi + i);
    __builtin_prefetch(lo + i);
  }
  uint16_t* hi;
  int16_t* lo;
};

constexpr int32_t kFirstAdded = 127;  // to s, for a code
constexpr int32_t kSecondAdded = -1;

// A table of kMomentLevels entries, looked up by the lowest bits of an index; bytes, as whole
// numbers.
#ifdef __AVX512F__
constexpr __mmask16 kAll = 0xffff;
inline Vector least(Vector a, Vector b) { return _mm512_maskz_min_ps(kAll, a, b); }
inline Vector most(Vector a, Vector b) { return _mm512_maskz_max_ps(kAll, a, b); }
inline Vector most_magnitude(Vector a, Vector b) {  // max(a, |b|) of an a that is not negative
  constexpr int kOfMagnitudes = 0b1011;             // the larger one, with its sign cleared
  return _mm512_maskz_range_ps(kAll, a, b, kOfMagnitudes);
}
inline Integers one_less_if(Integers count, Vector a, Vector b) {  // where a <= b
  const auto number = std::bit_cast<__m512i>(count);
  return std::bit_cast<Integers>(_mm512_mask_sub_epi32(number, _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ),
                                                       number, _mm512_set1_epi32(1)));
}
struct Table {
  explicit Table(const float* from)
      : entries(_mm512_maskz_broadcast_f32x8(kAll, _mm256_loadu_ps(from))) {}
  Vector operator[](Integers index) const {
    return _mm512_maskz_permutexvar_ps(kAll, std::bit_cast<__m512i>(index), entries);
  }
  Vector entries;
};
struct ByteTable {  // of 16 entries
  explicit ByteTable(const uint8_t* from)
      : entries(_mm512_maskz_cvtepu8_epi32(
            kAll, _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)))) {}
  Integers operator[](Integers index) const {
    return std::bit_cast<Integers>(
        _mm512_maskz_permutexvar_epi32(kAll, std::bit_cast<__m512i>(index), entries));
  }
  __m512i entries;
};
inline Integers load_bytes(const uint8_t* from) {
  return std::bit_cast<Integers>(
      _mm512_maskz_cvtepu8_epi32(kAll, _mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
}
// Four vectors, packed within the quarters of registers, in their order.
inline void store_packed(uint8_t* to, __m512i bytes) {
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  _mm512_storeu_si512(to, _mm512_maskz_permutexvar_epi32(kAll, order, bytes));
}
// Codes of s with the signs of x.
inline void store_first(uint8_t* to, const Integers (&s)[4], const Vector (&x)[4]) {
  const auto packed = [](const auto& from, int i) {
    return _mm512_packs_epi32(std::bit_cast<__m512i>(from[i]), std::bit_cast<__m512i>(from[i + 1]));
  };
  const __m512i numbers = _mm512_packus_epi16(packed(s, 0), packed(s, 2));
  const __m512i signs = _mm512_packs_epi16(packed(x, 0), packed(x, 2));
  const __m512i zero = _mm512_set1_epi8(kFirstAdded);
  store_packed(to, _mm512_mask_subs_epu8(_mm512_add_epi8(zero, numbers), _mm512_movepi8_mask(signs),
                                         zero, numbers));
}
inline void store_second(uint8_t* to, const Integers (&s)[4]) {
  const auto packed = [&s](int i) {
    const auto words =
        _mm512_packs_epi32(std::bit_cast<__m512i>(s[i]), std::bit_cast<__m512i>(s[i + 1]));
    return _mm512_subs_epu16(words, _mm512_set1_epi16(-kSecondAdded));
  };
  store_packed(to, _mm512_packus_epi16(packed(0), packed(2)));
}

inline Vector SplitWeights::get(int64_t i) const {
  const __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(hi + i));
  const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(lo + i));
  const auto words = std::bit_cast<Integers>(_mm512_maskz_cvtepu16_epi32(kAll, high));
  return of_bits((words << 16) + std::bit_cast<Integers>(_mm512_maskz_cvtepi16_epi32(kAll, low)));
}
inline void SplitWeights::set(int64_t i, Vector x) const {
  const auto rounded = std::bit_cast<__m512i>((bits_of(x) + 0x8000) >> 16);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(hi + i),
                      _mm512_maskz_cvtepi32_epi16(kAll, rounded));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(lo + i),
                      _mm512_maskz_cvtepi32_epi16(kAll, std::bit_cast<__m512i>(x)));
}
#else
inline Vector least(Vector a, Vector b) { return _mm256_min_ps(a, b); }
inline Vector most(Vector a, Vector b) { return _mm256_max_ps(a, b); }
inline Vector most_magnitude(Vector a, Vector b) { return most(magnitude(b), a); }
inline Integers one_less_if(Integers count, Vector a, Vector b) {  // where a <= b
  return count + (a <= b);
}
struct Table {
  explicit Table(const float* from) : entries(_mm256_loadu_ps(from)) {}
  Vector operator[](Integers index) const {
    return _mm256_permutevar8x32_ps(entries, std::bit_cast<__m256i>(index));
  }
  Vector entries;
};
struct ByteTable {  // of 16 entries, the first of which is 0
  explicit ByteTable(const uint8_t* from)
      : entries(
            _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)))) {}
  Integers operator[](Integers index) const {  // in [0, 128): the other bytes of a lane are 0
    return std::bit_cast<Integers>(_mm256_shuffle_epi8(entries, std::bit_cast<__m256i>(index)));
  }
  __m256i entries;
};
// By a shuffle within the halves of a register: one across them takes three times as long.
inline Integers load_bytes(const uint8_t* from) {
  int64_t eight = 0;
  std::memcpy(&eight, from, sizeof(eight));
  const __m256i places =
      _mm256_setr_epi8(0, -1, -1, -1, 1, -1, -1, -1, 2, -1, -1, -1, 3, -1, -1, -1,  //
                       4, -1, -1, -1, 5, -1, -1, -1, 6, -1, -1, -1, 7, -1, -1, -1);
  return std::bit_cast<Integers>(_mm256_shuffle_epi8(_mm256_set1_epi64x(eight), places));
}
// x + added, at least 0 and at most 255.
inline void store_bytes(uint8_t* to, const Integers (&four)[4], int32_t added) {
  const auto at = [&four](int i) { return std::bit_cast<__m256i>(four[i]); };
  const __m256i add = _mm256_set1_epi16(static_cast<int16_t>(added));
  const __m256i low = _mm256_add_epi16(_mm256_packs_epi32(at(0), at(1)), add);
  const __m256i high = _mm256_add_epi16(_mm256_packs_epi32(at(2), at(3)), add);
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                      _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), order));
}
inline Integers negated_if(Integers x, Integers sign) {  // 0 where all bits of the sign are
  return std::bit_cast<Integers>(
      _mm256_sign_epi32(std::bit_cast<__m256i>(x), std::bit_cast<__m256i>(sign)));
}
inline void store_first(uint8_t* to, const Integers (&s)[4], const Vector (&x)[4]) {
  Integers numbers[4];
  for (int i = 0; i < 4; ++i) numbers[i] = negated_if(s[i], bits_of(x[i]));
  store_bytes(to, numbers, kFirstAdded);
}
inline void store_second(uint8_t* to, const Integers (&s)[4]) { store_bytes(to, s, kSecondAdded); }

// Words in the upper halves of lanes: by shuffles within halves, as above.
inline Integers load_upper_words(const void* from) {
  const __m256i places =
      _mm256_setr_epi8(-1, -1, 0, 1, -1, -1, 2, 3, -1, -1, 4, 5, -1, -1, 6, 7,  //
                       -1, -1, 8, 9, -1, -1, 10, 11, -1, -1, 12, 13, -1, -1, 14, 15);
  const __m128i words = _mm_loadu_si128(static_cast<const __m128i*>(from));
  return std::bit_cast<Integers>(_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(words), places));
}
inline Vector SplitWeights::get(int64_t i) const {
  return of_bits(load_upper_words(hi + i) + (load_upper_words(lo + i) >> 16));
}
inline void SplitWeights::set(int64_t i, Vector x) const {
  const __m256i upper =
      _mm256_setr_epi8(2, 3, 6, 7, 10, 11, 14, 15, -1, -1, -1, -1, -1, -1, -1, -1,  //
                       2, 3, 6, 7, 10, 11, 14, 15, -1, -1, -1, -1, -1, -1, -1, -1);
  const __m256i lower =
      _mm256_setr_epi8(-1, -1, -1, -1, -1, -1, -1, -1, 0, 1, 4, 5, 8, 9, 12, 13,  //
                       -1, -1, -1, -1, -1, -1, -1, -1, 0, 1, 4, 5, 8, 9, 12, 13);
  const Integers bits = bits_of(x);
  const __m256i high = _mm256_shuffle_epi8(std::bit_cast<__m256i>(bits + 0x8000), upper);
  const __m256i low = _mm256_shuffle_epi8(std::bit_cast<__m256i>(bits), lower);
  constexpr int kEvenFirst = 0b11011000;  // quarters 0, 2, 1, 3: all of hi, all of lo
  const __m256i both = _mm256_permute4x64_epi64(_mm256_or_si256(high, low), kEvenFirst);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(hi + i), _mm256_castsi256_si128(both));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(lo + i), _mm256_extracti128_si256(both, 1));
}
#endif

template <bool kHasSign>
class Decoder {
 public:
  Decoder(const MomentCode& of, float scale)
      : step_(of.step), base_(of.base), scale_(spread(scale)) {}

  Vector operator()(const uint8_t* codes) const {
    if (!kHasSign) return value(to_float(load_bytes(codes) + 1));
    const Integers offset = load_bytes(codes) - 127;
    const Integers s = offset < 0 ? -offset : offset;
    const Vector t = fused(to_float(s), spread(2.0F), spread(1.0F));
    return of_bits(bits_of(value(t)) | (offset & INT32_MIN));
  }

 private:
  Vector value(Vector t) const {
    const Integers line = bits_of(t) >> 23;
    return fused(step_[line], t, base_[line]) * scale_;
  }

  Table step_;
  Table base_;
  Vector scale_;
};

// Makes s. Levels go by the shift that makes s of u, which is less by one for each level: its
// lowest bits are as good an index.
template <bool kHasSign>
class Encoder {
 public:
  explicit Encoder(const MomentCode& of) : Encoder(ByShift(of)) {}

  Integers operator()(Vector x, Vector inverse_scale) const {
    const Vector fraction = x * inverse_scale;
    const Vector least_fraction = spread(kLeastFraction);
    const Vector a =
        kHasSign ? most_magnitude(least_fraction, fraction) : most(fraction, least_fraction);
    const Integers known = most_shift_[bits_of(a) >> 24];
    const Integers shift = one_less_if(known, at_least_[known], a);
    const Vector u = least(fused(a, slope_[shift], spread(kOffset)), spread(kMostOfDecade));
    constexpr int32_t kHalf = 126 << 23;  // leaves a one before the fraction bits of u
    return (bits_of(u) - kHalf) >> shift;
  }

 private:
  struct ByShift {
    explicit ByShift(const MomentCode& of) {
      const int none = 23 - of.exponent;  // of level 0
      for (int level = 0; level < kMomentLevels; ++level) {
        at_least[(none - level) % kMomentLevels] = of.at_least[level];
        slope[(none - level) % kMomentLevels] = of.slope[level];
      }
      for (int range = 1; range < 16; ++range) {
        most_shift[range] = static_cast<uint8_t>(none - of.least_level[range]);
      }
    }
    float at_least[kMomentLevels];
    float slope[kMomentLevels];
    uint8_t most_shift[16] = {};  // the first one, which no fraction has, is 0
  };
  explicit Encoder(const ByShift& of)
      : most_shift_(of.most_shift), at_least_(of.at_least), slope_(of.slope) {}

  ByteTable most_shift_;
  Table at_least_;
  Table slope_;
};

template <bool kHasSign>
void decode(const MomentCode& code, const uint8_t* codes, float scale, float* x) {
  const Decoder<kHasSign> decoder(code, scale);
  for (int64_t i = 0; i < kMomentBlock; i += kVectorWidth) store(x + i, decoder(codes + i));
}

constexpr int64_t kEncodedAtOnce = 4 * kVectorWidth;

float largest_lane(Vector x) {
#ifdef __AVX512F__
  const __m256 eight = _mm256_max_ps(_mm512_maskz_extractf32x8_ps(0xff, x, 0),
                                     _mm512_maskz_extractf32x8_ps(0xff, x, 1));
#else
  const __m256 eight = x;
#endif
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

// A scale and its inverse; 0 where it is too small to count.
struct Scale {
  explicit Scale(float largest)
      : value(largest >= kLeastMomentScale ? largest : 0.0F),
        inverse(value > 0.0F ? 1.0F / value : 0.0F) {}
  float value;
  float inverse;
};

template <bool kHasSign>
void encode_block(const MomentCode& code, float inverse, const float* x, uint8_t* codes) {
  const Encoder<kHasSign> encoder(code);
  for (int64_t i = 0; i < kMomentBlock; i += kEncodedAtOnce) {
    Vector values[4];
    Integers numbers[4];
    for (int64_t j = 0; j < 4; ++j) {
      values[j] = load(x + i + j * kVectorWidth);
      numbers[j] = encoder(values[j], spread(inverse));
    }
    if constexpr (kHasSign) {
      store_first(codes + i, numbers, values);
    } else {
      store_second(codes + i, numbers);
    }
  }
}

}  // namespace

void decode_moments(const MomentCode& code, const uint8_t* codes, float scale, float* x) {
  return code.has_sign ? decode<true>(code, codes, scale, x) : decode<false>(code, codes, scale, x);
}

float encode_moments(const MomentCode& code, const float* x, uint8_t* codes) {
  Vector largest = spread(0.0F);
  for (int64_t i = 0; i < kMomentBlock; i += kVectorWidth) {
    largest = most(largest, magnitude(load(x + i)));
  }
  const Scale scale(largest_lane(largest));
  code.has_sign ? encode_block<true>(code, scale.inverse, x, codes)
                : encode_block<false>(code, scale.inverse, x, codes);
  return scale.value;
}

namespace {

struct Encoders {
  Encoder<true> first;
  Encoder<false> second;
};

// A block between its two passes: the moments first, then the weights together with the codes. A
// processor that looks a few hundred operations ahead makes codes while it waits for the roots and
// quotients of the weights.
class Moments {
 public:
  void make(const AdamW& step, const CodedMoments& coded_m, const CodedMoments& coded_v, int64_t at,
            const float* g, int64_t ahead) {
    decode<true>(coded_m.code, coded_m.codes(at), coded_m.scale(at), m_);
    decode<false>(coded_v.code, coded_v.codes(at), coded_v.scale(at), v_);
    const Vector largest = spread(kLargestMomentGradient);
    Vector largest_m = spread(0.0F);
    Vector largest_v = spread(0.0F);
    for (int64_t i = 0; i < kMomentBlock; i += kVectorWidth) {
      Vector m = load(m_ + i);
      Vector v = load(v_ + i);
      __builtin_prefetch(g + at + i + ahead);
      const Vector gradient = load(g + at + i) * step.s.gradient_scale;
      const Vector bounded = most(least(gradient, largest), -largest);
      step.moments_of_scaled(bounded, m, v);
      store(m_ + i, m);
      store(v_ + i, v);
      largest_m = most_magnitude(largest_m, m);
      largest_v = most(largest_v, v);
    }
    m_scale_ = Scale(largest_lane(largest_m));
    v_scale_ = Scale(largest_lane(largest_v));
  }
  template <typename Weights>
  void use(const AdamW& step, const Encoders& encoders, const CodedMoments& coded_m,
           const CodedMoments& coded_v, int64_t at, const Weights& w, int64_t ahead) const {
    for (int64_t i = 0; i < kMomentBlock; i += kEncodedAtOnce) {
      Vector m[4];
      Integers m_numbers[4];
      Integers v_numbers[4];
      for (int64_t j = 0; j < 4; ++j) {
        const int64_t from = i + j * kVectorWidth;
        m[j] = load(m_ + from);
        const Vector v = load(v_ + from);
        w.prefetch(at + from + ahead);
        w.set(at + from, step.weight_uncorrected(w.get(at + from), m[j], v));
        m_numbers[j] = encoders.first(m[j], spread(m_scale_.inverse));
        v_numbers[j] = encoders.second(v, spread(v_scale_.inverse));
      }
      store_first(coded_m.codes(at) + i, m_numbers, m);
      store_second(coded_v.codes(at) + i, v_numbers);
    }
    coded_m.scale(at) = m_scale_.value;
    coded_v.scale(at) = v_scale_.value;
  }

 private:
  alignas(Vector) float m_[kMomentBlock];
  alignas(Vector) float v_[kMomentBlock];
  Scale m_scale_{0.0F};
  Scale v_scale_{0.0F};
};

// The second pass of a block comes after the first one of the next block, which hides how long a
// scale takes. Two passes are more than the processor looks ahead, so that what comes after them is
// fetched by request.
template <typename Weights>
void step_blocks(const AdamWScalars& scalars, const CodedMoments& m, const CodedMoments& v,
                 const Weights& w, const float* g, int64_t n) {
  constexpr int64_t kAhead = 4 * kMomentBlock;
  const AdamW step{scalars};
  const Encoders encoders{Encoder<true>(m.code), Encoder<false>(v.code)};
  const auto ahead = [n](int64_t at) { return at + kAhead < n ? kAhead : 0; };
  Moments even;
  Moments odd;
  even.make(step, m, v, 0, g, ahead(0));
  for (int64_t at = 0; at < n; at += 2 * kMomentBlock) {
    const int64_t second = at + kMomentBlock;
    const int64_t next = second + kMomentBlock;
    if (second < n) odd.make(step, m, v, second, g, ahead(second));
    even.use(step, encoders, m, v, at, w, ahead(at));
    if (next < n) even.make(step, m, v, next, g, ahead(next));
    if (second < n) odd.use(step, encoders, m, v, second, w, ahead(second));
  }
}

}  // namespace

void adamw_8bit(const AdamWScalars& scalars, const CodedMoments& m, const CodedMoments& v, float* w,
                const float* g, int64_t n) {
  step_blocks(scalars, m, v, WholeWeights{w}, g, n);
}

void adamw_8bit_split(const AdamWScalars& scalars, const CodedMoments& m, const CodedMoments& v,
                      uint16_t* hi, int16_t* lo, const float* g, int64_t n) {
  step_blocks(scalars, m, v, SplitWeights{hi, lo}, g, n);
}

}  // namespace hetmem::ops::cpu::HETMEM_ISA
