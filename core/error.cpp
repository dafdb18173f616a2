#include "core/error.h"

#include <string_view>

namespace hetmem {

int exit_code(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kBadInput:
      return 2;
    case ErrorKind::kDoesNotFit:
      return 3;
    case ErrorKind::kStorage:
    case ErrorKind::kCorrupt:
      return 4;
    case ErrorKind::kNonFinite:
      return 5;
    case ErrorKind::kInternal:
      return 1;
  }
  return 1;
}

void throw_assertion(const char* condition, const char* file, int line) {
  const std::string_view path(file);
  const auto slash = path.find_last_of('/');
  const std::string name(slash == std::string_view::npos ? path : path.substr(slash + 1));
  throw Error(ErrorKind::kInternal, "internal error: " + std::string(condition) +
                                        " does not hold (" + name + ":" + std::to_string(line) +
                                        "); please report this");
}

}  // namespace hetmem
