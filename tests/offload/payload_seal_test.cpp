#include "offload/payload_seal.h"

#include <openssl/evp.h>

#include <cstring>
#include <set>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "tests/offload/disk_fixture.h"

namespace hetmem {
namespace {

const RunId kRun{1, 2, 3};

std::vector<char> sealed(PayloadSeal& seal, const std::vector<char>& payload, int64_t piece) {
  std::vector<char> stored(payload.size());
  for (size_t at = 0; at < payload.size(); at += static_cast<size_t>(piece)) {
    const auto now = std::min(static_cast<size_t>(piece), payload.size() - at);
    seal.write(payload.data() + at, stored.data() + at, static_cast<int64_t>(now));
  }
  return stored;
}

TEST(PayloadSeal, AChecksumIsXxh3OverThePayload) {
  for (const int64_t bytes : {1, 1000, 65536, 200001}) {
    const std::vector<char> payload = random_payload(bytes, 5);
    const auto seal = make_checksum_seal();
    EXPECT_EQ(sealed(*seal, payload, 65536 + 17), payload);
    XXH128_canonical_t expected;
    XXH128_canonicalFromHash(&expected, XXH3_128bits(payload.data(), payload.size()));
    EXPECT_EQ(std::memcmp(seal->digest().data(), expected.digest, 16), 0);
  }
}

// The same by OpenSSL in one go, from what the header says: nonce, authenticated data, tag.
TEST(PayloadSeal, ACipherIsAes256GcmUnderChunkAndGeneration) {
  const SealKey key;
  const SlotLabel label{kRun, 0x01020304, 0x05060708090A0B0C, 5000};
  const std::vector<char> payload = random_payload(5000, 6);
  const auto seal = make_cipher_seal(key, label, SealUse::kWrite);
  const std::vector<char> stored = sealed(*seal, payload, 1024);
  const SealDigest tag = seal->digest();

  const unsigned char nonce[12] = {4, 3, 2, 1, 0xC, 0xB, 0xA, 9, 8, 7, 6, 5};
  const SlotTrailer trailer = make_trailer(label, true, {});
  std::vector<char> expected(payload.size());
  SealDigest expected_tag;
  int bytes = 0;
  EVP_CIPHER_CTX* context = EVP_CIPHER_CTX_new();
  EVP_EncryptInit_ex(context, EVP_aes_256_gcm(), nullptr, key.data(), nonce);
  EVP_EncryptUpdate(context, nullptr, &bytes, reinterpret_cast<const unsigned char*>(&trailer), 56);
  EVP_EncryptUpdate(context, reinterpret_cast<unsigned char*>(expected.data()), &bytes,
                    reinterpret_cast<const unsigned char*>(payload.data()), 5000);
  EVP_EncryptFinal_ex(context, reinterpret_cast<unsigned char*>(expected.data()) + bytes, &bytes);
  EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_GCM_GET_TAG, 16, expected_tag.data());
  EVP_CIPHER_CTX_free(context);
  EXPECT_EQ(stored, expected);
  EXPECT_EQ(tag, expected_tag);
}

TEST(PayloadSeal, ACipherOpensWhatItSealedAndNothingElse) {
  const SealKey key;
  const SealKey other_key;
  EXPECT_NE(std::memcmp(key.data(), other_key.data(), SealKey::kBytes), 0);
  const SlotLabel label{kRun, 1, 2, 300};
  const std::vector<char> payload = random_payload(300, 7);
  const auto seal = make_cipher_seal(key, label, SealUse::kWrite);
  const std::vector<char> stored = sealed(*seal, payload, 100);
  const SealDigest tag = seal->digest();
  const auto opens = [&](const SealKey& with, const SlotLabel& as, const std::vector<char>& bytes) {
    std::vector<char> opened(bytes.size());
    const auto reader = make_cipher_seal(with, as, SealUse::kRead);
    reader->read(bytes.data(), opened.data(), static_cast<int64_t>(bytes.size()));
    return reader->matches(tag) && opened == payload;
  };
  EXPECT_TRUE(opens(key, label, stored));
  EXPECT_FALSE(opens(other_key, label, stored));
  EXPECT_FALSE(opens(key, {kRun, 1, 3, 300}, stored));
  EXPECT_FALSE(opens(key, {kRun, 2, 2, 300}, stored));
  EXPECT_FALSE(opens(key, {kRun, 1, 2, 299}, stored));  // the trailer is authenticated
  EXPECT_FALSE(opens(key, {RunId{}, 1, 2, 300}, stored));
  for (size_t i = 0; i < stored.size(); ++i) {
    std::vector<char> tampered = stored;
    tampered[i] = static_cast<char>(tampered[i] ^ 1);
    EXPECT_FALSE(opens(key, label, tampered)) << i;
  }
}

TEST(PayloadSeal, CiphertextsOfOnePayloadAreAllDifferent) {
  const SealKey key;
  const std::vector<char> payload(64, 0);
  std::set<std::vector<char>> seen{payload};
  for (uint64_t chunk = 0; chunk < 20; ++chunk) {
    for (int64_t generation = 0; generation < 20; ++generation) {
      const SlotLabel label{kRun, chunk, generation, 64};
      const auto seal = make_cipher_seal(key, label, SealUse::kWrite);
      EXPECT_TRUE(seen.insert(sealed(*seal, payload, 64)).second);
    }
  }
}

TEST(PayloadSeal, ATrailerSaysWhatIsWrongWithIt) {
  const SlotTrailer expected = make_trailer({kRun, 4, 9, 100}, false, {});
  EXPECT_EQ(find_fault(expected, expected), "");
  EXPECT_EQ(find_fault({}, expected), "there is no chunk");
  EXPECT_EQ(find_fault(make_trailer({kRun, 4, 9, 100}, true, {}), expected), "there is no chunk");
  EXPECT_EQ(find_fault(make_trailer({RunId{}, 4, 9, 100}, false, {}), expected),
            "there is a chunk of another run");
  EXPECT_EQ(find_fault(make_trailer({kRun, 5, 9, 100}, false, {}), expected),
            "there is another chunk");
  EXPECT_EQ(find_fault(make_trailer({kRun, 4, 8, 100}, false, {}), expected),
            "it is stale: generation 8 instead of 9");
  EXPECT_EQ(find_fault(make_trailer({kRun, 4, 9, 99}, false, {}), expected),
            "it has 99 bytes instead of 100");
}

TEST(PayloadSeal, RunsHaveIdsOfTheirOwn) { EXPECT_NE(make_run_id(), make_run_id()); }

}  // namespace
}  // namespace hetmem
