#include "device/cpu/streaming_copy.h"

#include <immintrin.h>

#include <algorithm>
#include <cstring>

namespace hetmem {
namespace {

constexpr int64_t kSmall = int64_t{1} << 18;  // stays in the caches
constexpr int64_t kLine = 64;

// Whole lines to an aligned destination.
__attribute__((target("avx2"))) void copy_lines(char* to, const char* from, int64_t lines) {
  constexpr int kAhead = 8 * kLine;
  for (int64_t line = 0; line < lines; ++line, to += kLine, from += kLine) {
    _mm_prefetch(from + kAhead, _MM_HINT_NTA);
    const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    const __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + 32));
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to), low);
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to + 32), high);
  }
  _mm_sfence();
}

}  // namespace

void streaming_copy(void* destination, const void* source, int64_t bytes) {
  auto* to = static_cast<char*>(destination);
  const auto* from = static_cast<const char*>(source);
  if (bytes >= kSmall && __builtin_cpu_supports("avx2")) {
    const int64_t head = (kLine - reinterpret_cast<intptr_t>(to) % kLine) % kLine;
    std::memcpy(to, from, static_cast<size_t>(head));
    const int64_t lines = (bytes - head) / kLine;
    copy_lines(to + head, from + head, lines);
    const int64_t done = head + lines * kLine;
    to += done;
    from += done;
    bytes -= done;
  }
  std::memcpy(to, from, static_cast<size_t>(bytes));
}

}  // namespace hetmem
