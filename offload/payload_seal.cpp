#include "offload/payload_seal.h"

#include <sys/random.h>

#include <algorithm>
#include <cstring>

#include "core/error.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace hetmem {
namespace {

constexpr std::array<char, 8> kMagic{'H', 'M', 'C', 'H', 'U', 'N', 'K', '1'};
// Copied and then hashed while it is still in the cache.
constexpr int64_t kCachedBytes = int64_t{64} << 10;

struct FreeState {
  void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
};

class ChecksumSeal final : public PayloadSeal {
 public:
  ChecksumSeal() : state_(XXH3_createState()) { XXH3_128bits_reset(state_.get()); }

  void write(const char* payload, char* stored, int64_t bytes) override {
    copy_and_hash(payload, stored, bytes);
  }
  void read(const char* stored, char* payload, int64_t bytes) override {
    copy_and_hash(stored, payload, bytes);
  }
  SealDigest digest() override {
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state_.get()));
    SealDigest digest;
    std::copy(std::begin(canonical.digest), std::end(canonical.digest), digest.begin());
    return digest;
  }
  bool matches(const SealDigest& stored) override { return digest() == stored; }

 private:
  void copy_and_hash(const char* from, char* to, int64_t bytes) {
    for (int64_t at = 0; at < bytes; at += kCachedBytes) {
      const auto now = static_cast<size_t>(std::min(kCachedBytes, bytes - at));
      std::memcpy(to + at, from + at, now);
      XXH3_128bits_update(state_.get(), to + at, now);
    }
  }

  std::unique_ptr<XXH3_state_t, FreeState> state_;
};

}  // namespace

RunId make_run_id() {
  RunId id;
  HETMEM_ASSERT(::getrandom(id.data(), id.size(), 0) == static_cast<ssize_t>(id.size()));
  return id;
}

SlotTrailer make_trailer(const SlotLabel& label, bool encrypted, const SealDigest& digest) {
  return {kMagic, encrypted ? 1U : 0U, label, digest};
}

std::string find_fault(const SlotTrailer& read, const SlotTrailer& expected) {
  const SlotLabel& found = read.label;
  const SlotLabel& wanted = expected.label;
  if (read.magic != expected.magic || read.encrypted != expected.encrypted) {
    return "there is no chunk";
  }
  if (found.run != wanted.run) return "there is a chunk of another run";
  if (found.chunk != wanted.chunk) return "there is another chunk";
  if (found.generation != wanted.generation) {
    return "it is stale: generation " + std::to_string(found.generation) + " instead of " +
           std::to_string(wanted.generation);
  }
  if (found.bytes != wanted.bytes) {
    return "it has " + std::to_string(found.bytes) + " bytes instead of " +
           std::to_string(wanted.bytes);
  }
  return "";
}

std::unique_ptr<PayloadSeal> make_checksum_seal() { return std::make_unique<ChecksumSeal>(); }

}  // namespace hetmem
