// Payloads under AES-256-GCM, by OpenSSL.
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include "core/error.h"
#include "offload/payload_seal.h"

namespace hetmem {
namespace {

constexpr int64_t kPieceBytes = int64_t{1} << 30;  // EVP counts in int
constexpr int64_t kLargestPayload = (int64_t{1} << 36) - 32;

size_t page_bytes() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

void check(int result, const char* what) {
  if (result != 1) throw Error(ErrorKind::kInternal, std::string("OpenSSL cannot ") + what);
}

struct FreeContext {
  void operator()(EVP_CIPHER_CTX* context) const { EVP_CIPHER_CTX_free(context); }
};

class CipherSeal final : public PayloadSeal {
 public:
  CipherSeal(const SealKey& key, const SlotLabel& label, SealUse use)
      : context_(EVP_CIPHER_CTX_new()) {
    HETMEM_ASSERT(label.chunk >> 32 == 0 && label.bytes <= kLargestPayload);
    std::array<unsigned char, 12> nonce;
    const auto chunk = static_cast<uint32_t>(label.chunk);
    std::memcpy(nonce.data(), &chunk, sizeof chunk);
    std::memcpy(nonce.data() + sizeof chunk, &label.generation, sizeof label.generation);
    check(EVP_CipherInit_ex(context_.get(), EVP_aes_256_gcm(), nullptr, key.data(), nonce.data(),
                            use == SealUse::kWrite ? 1 : 0),
          "start AES-256-GCM");
    const SlotTrailer trailer = make_trailer(label, true, {});
    int ignored = 0;
    check(EVP_CipherUpdate(context_.get(), nullptr, &ignored,
                           reinterpret_cast<const unsigned char*>(&trailer),
                           static_cast<int>(offsetof(SlotTrailer, digest))),
          "authenticate the trailer");
  }

  void write(const char* payload, char* stored, int64_t bytes) override {
    convert(payload, stored, bytes);
  }
  void read(const char* stored, char* payload, int64_t bytes) override {
    convert(stored, payload, bytes);
  }

  SealDigest digest() override {
    HETMEM_ASSERT(finish());
    SealDigest tag;
    check(EVP_CIPHER_CTX_ctrl(context_.get(), EVP_CTRL_GCM_GET_TAG, static_cast<int>(tag.size()),
                              tag.data()),
          "make the tag");
    return tag;
  }

  bool matches(const SealDigest& stored) override {
    SealDigest tag = stored;
    check(EVP_CIPHER_CTX_ctrl(context_.get(), EVP_CTRL_GCM_SET_TAG, static_cast<int>(tag.size()),
                              tag.data()),
          "take the tag");
    return finish();
  }

 private:
  void convert(const char* from, char* to, int64_t bytes) {
    for (int64_t at = 0; at < bytes; at += kPieceBytes) {
      int converted = 0;
      check(EVP_CipherUpdate(context_.get(), reinterpret_cast<unsigned char*>(to + at), &converted,
                             reinterpret_cast<const unsigned char*>(from + at),
                             static_cast<int>(std::min(kPieceBytes, bytes - at))),
            "encrypt or decrypt");
    }
  }

  // When reading, whether the tag is that of what was read.
  bool finish() {
    std::array<unsigned char, 16> nothing;
    int bytes = 0;
    return EVP_CipherFinal_ex(context_.get(), nothing.data(), &bytes) == 1;
  }

  std::unique_ptr<EVP_CIPHER_CTX, FreeContext> context_;
};

}  // namespace

SealKey::SealKey() {
  void* page =
      mmap(nullptr, page_bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED || mlock(page, page_bytes()) != 0) {
    const int code = errno;
    if (page != MAP_FAILED) munmap(page, page_bytes());
    throw Error(ErrorKind::kBadInput,
                std::string("--encrypt-disk keeps its key in locked memory, which the system "
                            "refused: ") +
                    std::strerror(code) + "; raise the limit (ulimit -l)");
  }
  key_ = static_cast<unsigned char*>(page);
  madvise(page, page_bytes(), MADV_DONTDUMP);
  madvise(page, page_bytes(), MADV_WIPEONFORK);
  if (RAND_priv_bytes(key_, kBytes) != 1) {
    munmap(page, page_bytes());
    throw Error(ErrorKind::kInternal, "OpenSSL has no random key for --encrypt-disk");
  }
}

SealKey::~SealKey() {
  OPENSSL_cleanse(key_, kBytes);
  munmap(key_, page_bytes());
}

std::unique_ptr<PayloadSeal> make_cipher_seal(const SealKey& key, const SlotLabel& label,
                                              SealUse use) {
  return std::make_unique<CipherSeal>(key, label, use);
}

}  // namespace hetmem
