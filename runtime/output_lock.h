// OutputLock: one run at a time writes into a folder, whichever process it is of. The lock is one
// of the system's on the folder itself: it leaves no file behind and ends with its process. Not
// thread-safe.
#pragma once

#include <sys/types.h>

#include <string>

namespace hetmem {

class OutputLock {
 public:
  OutputLock() = default;
  // Holds nothing where the folder is not there, or on a file system without locks. Throws Error
  // (kBadInput) where another run has it.
  explicit OutputLock(const std::string& folder);
  OutputLock(OutputLock&& other) noexcept;
  OutputLock& operator=(OutputLock&& other) noexcept;
  ~OutputLock();
  bool held() const { return descriptor_ >= 0; }

 private:
  void release();
  int descriptor_ = -1;
  pid_t owner_ = 0;
};

}  // namespace hetmem
