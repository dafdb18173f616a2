// Errors of hetmem: one exception type whose kind maps to the exit code of the command line.
// A message says what was asked, what was there and what to do. A programmer's mistake is an
// assertion (HETMEM_ASSERT), which also throws (kind kInternal): the library never aborts.
#pragma once

#include <stdexcept>
#include <string>

namespace hetmem {

enum class ErrorKind {
  kBadInput,    // exit 2: bad input or usage
  kDoesNotFit,  // exit 3: the budgets are too small
  kStorage,     // exit 4: full, I/O error
  kCorrupt,     // exit 4: what is stored is not what was written
  kNonFinite,   // exit 5: loss or gradient is not finite
  kInternal,    // exit 1: a mistake in hetmem itself
};

// The exit code of the contract for an error of this kind.
int exit_code(ErrorKind kind);

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

[[noreturn]] void throw_assertion(const char* condition, const char* file, int line);

}  // namespace hetmem

// The file by its name alone: its path depends on where, and in what folder, it was compiled.
#ifdef __FILE_NAME__
#define HETMEM_FILE __FILE_NAME__
#else
#define HETMEM_FILE __FILE__
#endif
#define HETMEM_ASSERT(condition) \
  ((condition) ? void() : ::hetmem::throw_assertion(#condition, HETMEM_FILE, __LINE__))
