#include "io/checksum.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "io/file.h"

namespace hetmem {

struct Checksum::State {
  XXH3_state_t* hash = XXH3_createState();
  State() = default;
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() { XXH3_freeState(hash); }
};

Checksum::Checksum() : state_(std::make_unique<State>()) { XXH3_128bits_reset(state_->hash); }
Checksum::~Checksum() = default;
Checksum::Checksum(Checksum&&) noexcept = default;
Checksum& Checksum::operator=(Checksum&&) noexcept = default;

void Checksum::update(const void* data, int64_t bytes) {
  XXH3_128bits_update(state_->hash, data, static_cast<size_t>(bytes));
  bytes_ += bytes;
}

std::string Checksum::text() const {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state_->hash));
  std::string text;
  for (const unsigned char byte : canonical.digest) {
    constexpr const char* kDigits = "0123456789abcdef";
    text += {kDigits[byte >> 4], kDigits[byte & 15]};
  }
  return text;
}

FileSum write_summed_file(const std::string& folder, const std::string& name,
                          std::string_view text) {
  File file = File::create(folder + "/" + name);
  file.write(0, text.data(), static_cast<int64_t>(text.size()));
  Checksum sum;
  sum.update(text.data(), static_cast<int64_t>(text.size()));
  return {name, sum.bytes(), sum.text()};
}

}  // namespace hetmem
