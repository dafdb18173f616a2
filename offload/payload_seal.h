// What makes sure that a chunk which comes back from the disk is the one that went there: a label
// (which run, chunk, generation, length) and a digest over the payload, both in a trailer behind
// it. The digest is XXH3-128 of the payload, which finds what disks do by accident; or, with a key,
// the tag of AES-256-GCM, which finds what people do on purpose as well, and hides the payload.
//
//   auto seal = key ? make_cipher_seal(*key, label, SealUse::kWrite) : make_checksum_seal();
//   seal->write(payload, stored, bytes);             // piece by piece, in order
//   const SlotTrailer trailer = make_trailer(label, encrypted, seal->digest());
//
// A seal is for one payload, once, and one thread.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>

namespace hetmem {

using RunId = std::array<unsigned char, 16>;
using SealDigest = std::array<unsigned char, 16>;
// From the system's random generator.
RunId make_run_id();

struct SlotLabel {
  RunId run{};
  uint64_t chunk = 0;      // unique within the run
  int64_t generation = 0;  // of the chunk's contents
  int64_t bytes = 0;       // of the payload
};

// As it is on the disk. Everything before the digest is authenticated with the payload.
struct SlotTrailer {
  std::array<char, 8> magic{};
  uint64_t encrypted = 0;
  SlotLabel label;
  SealDigest digest{};
};
static_assert(sizeof(SlotTrailer) == 72, "no padding: every byte is written and checked");

SlotTrailer make_trailer(const SlotLabel& label, bool encrypted, const SealDigest& digest);
// What is wrong with a trailer that was read where `expected` was written, for people; empty where
// nothing is. Says nothing of the digest.
std::string find_fault(const SlotTrailer& read, const SlotTrailer& expected);

class PayloadSeal {
 public:
  PayloadSeal() = default;
  virtual ~PayloadSeal() = default;
  PayloadSeal(const PayloadSeal&) = delete;
  PayloadSeal& operator=(const PayloadSeal&) = delete;
  // Payload to what is stored, of the same length.
  virtual void write(const char* payload, char* stored, int64_t bytes) = 0;
  virtual SealDigest digest() = 0;  // after all of it was written
  // What is stored to payload, which is not to be trusted before matches() says so.
  virtual void read(const char* stored, char* payload, int64_t bytes) = 0;
  virtual bool matches(const SealDigest& stored) = 0;  // after all of it was read
};

std::unique_ptr<PayloadSeal> make_checksum_seal();

// A random key of one run, in memory that is not swapped out or dumped, wiped at the end. (The
// schedule that a seal derives from it is in ordinary memory while the seal lives, then wiped.)
class SealKey {
 public:
  // Throws Error (kBadInput) where no memory may be locked.
  SealKey();
  ~SealKey();
  SealKey(const SealKey&) = delete;
  SealKey& operator=(const SealKey&) = delete;
  const unsigned char* data() const { return key_; }
  static constexpr int kBytes = 32;

 private:
  unsigned char* key_;
};

enum class SealUse : uint8_t { kWrite, kRead };
// AES-256-GCM; the nonce is chunk and generation, which must not be written twice under one key.
// `label.chunk` is below 2^32, the payload below 64 GiB (NIST SP 800-38D, 5.2.1.1).
std::unique_ptr<PayloadSeal> make_cipher_seal(const SealKey& key, const SlotLabel& label,
                                              SealUse use);

}  // namespace hetmem
