#include "io/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/fault_plan.h"

namespace hetmem {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail(ErrorKind kind, const std::string& what, const std::string& path) {
  const bool full = errno == ENOSPC || errno == EDQUOT || errno == EFBIG;
  throw Error(kind, "cannot " + what + " " + path + ": " + std::strerror(errno) +
                        (full ? "; free space there, or choose another folder" : ""));
}

// What cannot be made because of where it was asked for is bad input; the rest is the storage's.
ErrorKind kind_of_creation_failure(int code) {
  const bool storage = code == ENOSPC || code == EDQUOT || code == EIO || code == EMFILE ||
                       code == ENFILE || code == ENOMEM;
  return storage ? ErrorKind::kStorage : ErrorKind::kBadInput;
}

// The system's calls behind the seam of the FaultPlan: they fail as the system's do.
int open_file(FaultSite site, const std::string& path, int flags) {
  if (next_fault(site, path).fails()) return -1;
  return ::open(path.c_str(), flags | O_CLOEXEC, 0666);
}

ssize_t read_some(int descriptor, const std::string& path, void* to, int64_t bytes,
                  int64_t offset) {
  const Fault fault = next_fault(FaultSite::kFileRead, path);
  if (fault.fails()) return -1;
  if (fault.kind == Fault::Kind::kShort) bytes = (bytes + 1) / 2;
  const ssize_t got = ::pread(descriptor, to, static_cast<size_t>(bytes), offset);
  if (fault.kind == Fault::Kind::kBitFlip) fault.flip_bit(to, got);
  return got;
}

ssize_t write_some(int descriptor, const std::string& path, const void* from, int64_t bytes,
                   int64_t offset) {
  const Fault fault = next_fault(FaultSite::kFileWrite, path);
  if (fault.fails()) return -1;
  if (fault.kind == Fault::Kind::kStale) return bytes;
  if (fault.kind == Fault::Kind::kShort) bytes = (bytes + 1) / 2;
  if (fault.kind != Fault::Kind::kBitFlip) {
    return ::pwrite(descriptor, from, static_cast<size_t>(bytes), offset);
  }
  std::vector<char> flipped(static_cast<const char*>(from), static_cast<const char*>(from) + bytes);
  fault.flip_bit(flipped.data(), bytes);
  return ::pwrite(descriptor, flipped.data(), flipped.size(), offset);
}

int sync_file(int descriptor, const std::string& path) {
  return next_fault(FaultSite::kFileSync, path).fails() ? -1 : ::fsync(descriptor);
}

// What the disk says of the bytes. Else a file system, or a sandbox, does not let parts of a file
// be sent; sync_file() is left to them.
bool is_of_the_disk(int code) {
  return code == EIO || code == ENOSPC || code == EDQUOT || code == EFBIG;
}

int sync_part(int descriptor, const std::string& path, int64_t first, int64_t bytes,
              unsigned flags) {
  if (next_fault(FaultSite::kFileSync, path).fails()) return -1;
  const int result = ::sync_file_range(descriptor, first, bytes, flags);
  return result != 0 && !is_of_the_disk(errno) ? 0 : result;
}

int rename_path(const std::string& from, const std::string& to, unsigned flags = 0) {
  if (next_fault(FaultSite::kFileRename, to).fails()) return -1;
  return ::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), flags);
}

void sync_path(const std::string& path, int flags) {
  const int descriptor = open_file(FaultSite::kFileOpen, path, flags);
  if (descriptor < 0) fail(ErrorKind::kStorage, "open", path);
  const int result = sync_file(descriptor, path);
  const int code = errno;
  ::close(descriptor);
  errno = code;
  if (result != 0) fail(ErrorKind::kStorage, "sync", path);
}

// Names of folders that are not what their name will be, or was: "<name>.tmp-<process>-<started>".
constexpr std::string_view kTemporary = ".tmp-";
constexpr std::string_view kReplaced = ".old-";

// The process that a folder belongs to. Numbers are used again, in another container at once: the
// tick at which it was started tells two apart.
struct Owner {
  int64_t process = 0;
  int64_t started = 0;  // 0: the system does not say
};

struct ProcessStatus {
  bool ended = false;  // its parent has not asked yet
  int64_t started = 0;
};

// From /proc: what follows the name, which may hold anything, begins with the state; the tick of
// the start is the 20th.
ProcessStatus status_of(int64_t process) {
  std::ifstream file("/proc/" + std::to_string(process) + "/stat");
  std::string line;
  std::getline(file, line);
  const size_t name_end = line.rfind(')');
  if (name_end == std::string::npos) return {};
  std::istringstream fields(line.substr(name_end + 1));
  std::string field;
  ProcessStatus status;
  for (int i = 0; i < 20 && fields >> field; ++i) {
    if (i == 0) status.ended = field == "Z" || field == "X";
  }
  std::from_chars(field.data(), field.data() + field.size(), status.started);
  return status;
}

bool has_ended(const Owner& owner) {
  if (::kill(static_cast<pid_t>(owner.process), 0) != 0 && errno == ESRCH) return true;
  const ProcessStatus now = status_of(owner.process);
  return now.ended || (now.started > 0 && owner.started > 0 && now.started != owner.started);
}

std::string owned_name(const std::string& path, std::string_view mark, const Owner& owner) {
  return path + std::string(mark) + std::to_string(owner.process) + "-" +
         std::to_string(owner.started);
}

Owner this_process() { return {::getpid(), status_of(::getpid()).started}; }

struct OwnedName {
  std::string base;
  Owner owner;
};

// Nothing but what owned_name() makes.
std::optional<OwnedName> parse_owned_name(const std::string& name, std::string_view mark) {
  const size_t at = name.rfind(mark);
  if (at == std::string::npos || at == 0) return std::nullopt;
  OwnedName parsed{name.substr(0, at), {}};
  const char* end = name.data() + name.size();
  const auto process = std::from_chars(name.data() + at + mark.size(), end, parsed.owner.process);
  if (process.ec != std::errc() || process.ptr == end) return std::nullopt;
  std::from_chars(process.ptr + 1, end, parsed.owner.started);
  constexpr int64_t kMostProcesses = std::numeric_limits<pid_t>::max();
  const bool valid = parsed.owner.process > 0 && parsed.owner.process <= kMostProcesses &&
                     parsed.owner.started >= 0 &&
                     name == owned_name(parsed.base, mark, parsed.owner);
  return valid ? std::optional(parsed) : std::nullopt;
}

std::vector<std::string> folders_in(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code code;
  for (fs::directory_iterator at(folder, code), end; !code && at != end; at.increment(code)) {
    std::error_code unknown;
    if (at->symlink_status(unknown).type() == fs::file_type::directory) {
      names.push_back(at->path().filename().string());
    }
  }
  return names;
}

std::string parent_of(const std::string& path) {
  const std::string parent = fs::path(path).parent_path().string();
  return parent.empty() ? "." : parent;
}

void sync_folder(const std::string& path) { sync_path(path, O_RDONLY | O_DIRECTORY); }

const char* name_of(fs::file_type type) {
  switch (type) {
    case fs::file_type::regular:
      return "a file";
    case fs::file_type::directory:
      return "a folder";
    case fs::file_type::fifo:
      return "a pipe";
    case fs::file_type::socket:
      return "a socket";
    case fs::file_type::block:
    case fs::file_type::character:
      return "a device";
    default:
      return "something else";
  }
}

// The path or, of a link, what it leads to; what is there already must be of the type.
std::string place_of(const std::string& path, fs::file_type wanted) {
  const auto refuse = [&](const std::string& why) {
    throw Error(ErrorKind::kBadInput, "cannot write " + path + ": " + why);
  };
  if (path.empty()) {
    throw Error(ErrorKind::kBadInput,
                std::string("the path to write is empty; name ") + name_of(wanted));
  }
  std::error_code code;
  const fs::file_type there = fs::status(path, code).type();
  const bool is_link = fs::is_symlink(fs::symlink_status(path, code));
  if (there == fs::file_type::not_found || there == fs::file_type::none) {
    if (is_link) refuse("it is a link that leads nowhere; remove it or choose another path");
    return path;
  }
  if (there != wanted) {
    refuse(std::string(name_of(there)) + " of that name is there; remove it or name " +
           name_of(wanted));
  }
  if (!is_link) return path;
  std::string place = fs::canonical(path, code).string();
  if (code) refuse("where the link leads cannot be found out: " + code.message());
  return place;
}

}  // namespace

File File::open_for_reading(const std::string& path) {
  const int descriptor = open_file(FaultSite::kFileOpen, path, O_RDONLY);
  if (descriptor < 0) {
    const bool storage = errno == EIO || errno == EMFILE || errno == ENFILE;
    fail(storage ? ErrorKind::kStorage : ErrorKind::kBadInput, "read", path);
  }
  File file(path, descriptor);
  struct stat info {};
  if (::fstat(descriptor, &info) != 0) fail(ErrorKind::kStorage, "stat", path);
  if (!S_ISREG(info.st_mode)) throw Error(ErrorKind::kBadInput, path + " is not a regular file");
  return file;
}

File File::create(const std::string& path) {
  const int descriptor = open_file(FaultSite::kFileCreate, path, O_RDWR | O_CREAT | O_TRUNC);
  if (descriptor < 0) fail(kind_of_creation_failure(errno), "create", path);
  return {path, descriptor};
}

File File::open_for_appending(const std::string& path) {
  const int descriptor = open_file(FaultSite::kFileCreate, path, O_RDWR | O_CREAT);
  if (descriptor < 0) fail(kind_of_creation_failure(errno), "create", path);
  File file(path, descriptor);
  file.appended_ = file.sent_ = file.dropped_ = file.size();
  return file;
}

File::File(File&& other) noexcept
    : path_(std::move(other.path_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      appended_(other.appended_),
      sent_(other.sent_),
      dropped_(other.dropped_) {}

File& File::operator=(File&& other) noexcept {
  if (this != &other) {
    if (descriptor_ >= 0) ::close(descriptor_);
    path_ = std::move(other.path_);
    descriptor_ = std::exchange(other.descriptor_, -1);
    appended_ = other.appended_;
    sent_ = other.sent_;
    dropped_ = other.dropped_;
  }
  return *this;
}

File::~File() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

int64_t File::size() const {
  struct stat info {};
  if (::fstat(descriptor_, &info) != 0) fail(ErrorKind::kStorage, "stat", path_);
  return info.st_size;
}

void File::read(int64_t offset, void* destination, int64_t bytes) const {
  auto* at = static_cast<char*>(destination);
  while (bytes > 0) {
    const ssize_t got = read_some(descriptor_, path_, at, bytes, offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail(ErrorKind::kStorage, "read", path_);
    if (got == 0) {
      throw Error(ErrorKind::kStorage, path_ + " ended at byte " + std::to_string(offset) +
                                           " with " + std::to_string(bytes) +
                                           " bytes still to read; is it being changed?");
    }
    at += got;
    offset += got;
    bytes -= got;
  }
}

void File::write(int64_t offset, const void* source, int64_t bytes) {
  const auto* at = static_cast<const char*>(source);
  while (bytes > 0) {
    const ssize_t put = write_some(descriptor_, path_, at, bytes, offset);
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) fail(ErrorKind::kStorage, "write", path_);
    at += put;
    offset += put;
    bytes -= put;
  }
}

void File::append(const void* source, int64_t bytes) {
  write(appended_, source, bytes);
  appended_ += bytes;
  write_behind();
}

// A few parts are on their way to the disk while the next is written; the oldest is waited for. An
// error that is heard of here is not told to sync() again.
void File::write_behind() {
  constexpr int64_t kPart = int64_t{4} << 20;
  constexpr int64_t kUnderWay = 4 * kPart;
  while (appended_ - sent_ >= kPart) {
    if (sync_part(descriptor_, path_, sent_, kPart, SYNC_FILE_RANGE_WRITE) != 0) {
      fail(ErrorKind::kStorage, "write", path_);
    }
    sent_ += kPart;
    if (sent_ - dropped_ <= kUnderWay) continue;
    constexpr unsigned kDone =
        SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
    if (sync_part(descriptor_, path_, dropped_, kPart, kDone) != 0) {
      fail(ErrorKind::kStorage, "write", path_);
    }
    ::posix_fadvise(descriptor_, dropped_, kPart, POSIX_FADV_DONTNEED);
    dropped_ += kPart;
  }
}

void File::sync() {
  if (sync_file(descriptor_, path_) != 0) fail(ErrorKind::kStorage, "sync", path_);
}

std::string read_text_file(const std::string& path) {
  const File file = File::open_for_reading(path);
  std::string text(static_cast<size_t>(file.size()), '\0');
  file.read(0, text.data(), static_cast<int64_t>(text.size()));
  return text;
}

std::string unfinished_path(const std::string& path) { return path + ".tmp"; }

std::string writable_file(const std::string& path) {
  return place_of(path, fs::file_type::regular);
}

void write_text_file(const std::string& name, std::string_view text) {
  const std::string path = writable_file(name);
  const std::string temporary = unfinished_path(path);
  try {
    {
      File file = File::create(temporary);
      file.write(0, text.data(), static_cast<int64_t>(text.size()));
      file.sync();
    }
    if (rename_path(temporary, path) != 0) fail(ErrorKind::kStorage, "rename to", path);
  } catch (const Error&) {
    ::unlink(temporary.c_str());
    throw;
  }
}

void make_folders(const std::string& path) {
  std::error_code code;
  std::vector<fs::path> made;  // the innermost first
  for (fs::path at = path; !at.empty() && !fs::exists(at, code); at = at.parent_path()) {
    made.push_back(at);
  }
  fs::create_directories(path, code);
  if (code) {
    throw Error(kind_of_creation_failure(code.value()),
                "cannot create " + path + ": " + code.message());
  }
  try {
    for (const fs::path& at : made) sync_folder(parent_of(at.string()));
  } catch (const Error&) {
    for (const fs::path& at : made) fs::remove(at, code);
    throw;
  }
}

std::string make_temporary_folder(const std::string& prefix) {
  std::error_code code;
  const fs::path parent = fs::temp_directory_path(code);
  if (code) {
    const char* given = std::getenv("TMPDIR");
    throw Error(ErrorKind::kBadInput,
                "there is no folder for temporary files" +
                    (given != nullptr ? ": TMPDIR is " + std::string(given) : std::string()) +
                    "; set TMPDIR to a folder that can be written to");
  }
  std::string path = (parent / (prefix + "XXXXXX")).string();
  if (::mkdtemp(path.data()) != nullptr) return path;
  throw Error(kind_of_creation_failure(errno),
              "cannot make a folder for temporary files in " + parent.string() + ": " +
                  std::strerror(errno) + "; set TMPDIR to one that has room and can be written to");
}

std::string absolute_path(const std::string& path) {
  std::error_code code;
  const fs::path absolute = fs::absolute(path, code);
  if (!code) return absolute.string();
  throw Error(ErrorKind::kBadInput,
              "cannot tell where " + path + " is: the working directory: " + code.message() +
                  "; change to a folder that is there, or give the whole path");
}

Error error_of_file_system(const fs::filesystem_error& error) {
  const std::string path = error.path1().string();
  return {kind_of_creation_failure(error.code().value()),
          "cannot use " + (path.empty() ? "the working directory" : path) + ": " +
              error.code().message() + "; see that it is there and may be used"};
}

AtomicDirectory::AtomicDirectory(std::string final_path) : final_(std::move(final_path)) {
  while (final_.size() > 1 && final_.back() == '/') final_.pop_back();
  final_ = place_of(final_, fs::file_type::directory);
  const Owner owner = this_process();
  temporary_ = owned_name(final_, kTemporary, owner);
  replaced_ = owned_name(final_, kReplaced, owner);
  make_folders(parent_of(final_));
  std::error_code code;
  fs::remove_all(temporary_, code);
  if (fs::exists(final_, code)) fs::remove_all(replaced_, code);
  fs::create_directory(temporary_, code);
  if (code) {
    throw Error(kind_of_creation_failure(code.value()),
                "cannot create " + final_ + ": " + code.message());
  }
}

AtomicDirectory::~AtomicDirectory() {
  std::error_code code;
  fs::remove_all(temporary_, code);
}

void AtomicDirectory::commit() {
  std::error_code code;
  for (fs::directory_iterator at(temporary_, code), end; !code && at != end; at.increment(code)) {
    if (at->is_regular_file(code)) sync_path(at->path().string(), O_RDONLY);
    if (code) break;
  }
  if (code) {
    throw Error(ErrorKind::kStorage, "cannot read " + temporary_ + ", which was to become " +
                                         final_ + ": " + code.message());
  }
  sync_folder(temporary_);
  kill_point(FaultSite::kDirectorySynced);
  if (rename_path(temporary_, final_, RENAME_NOREPLACE) != 0 && !replace()) {
    fail(ErrorKind::kStorage, "rename to", final_);
  }
  sync_folder(parent_of(final_));
  kill_point(FaultSite::kDirectoryCommitted);
  fs::remove_all(temporary_, code);
}

// The old one takes the temporary name.
bool AtomicDirectory::replace() {
  if (errno != EEXIST && errno != EINVAL && errno != ENOSYS) return false;
  std::error_code code;
  const fs::file_type there = fs::symlink_status(final_, code).type();
  if (there != fs::file_type::directory && there != fs::file_type::not_found) {
    errno = ENOTDIR;  // it has come to be there since
    return false;
  }
  if (rename_path(temporary_, final_, RENAME_EXCHANGE) == 0) return true;
  if (errno != EINVAL && errno != ENOSYS && errno != ENOENT) return false;
  if (rename_path(final_, replaced_) != 0) {
    return errno == ENOENT && rename_path(temporary_, final_) == 0;
  }
  kill_point(FaultSite::kDirectoryMoved);
  if (rename_path(temporary_, final_) != 0) {
    const int reason = errno;
    rename_path(replaced_, final_);
    errno = reason;
    return false;
  }
  rename_path(replaced_, temporary_);  // else the next run removes it
  return true;
}

void AtomicDirectory::remove(const std::string& path) {
  const std::string temporary = owned_name(path, kTemporary, this_process());
  std::error_code code;
  fs::remove_all(temporary, code);
  if (rename_path(path, temporary) != 0) fail(ErrorKind::kStorage, "remove", path);
  fs::remove_all(temporary, code);
  if (code) {
    throw Error(ErrorKind::kStorage, "cannot remove " + temporary + ": " + code.message());
  }
}

bool AtomicDirectory::rename(const std::string& from, const std::string& to) {
  std::error_code code;
  if (fs::exists(fs::symlink_status(to, code))) return false;
  if (rename_path(from, to) != 0) fail(ErrorKind::kStorage, "rename to", to);
  sync_folder(parent_of(to));
  return true;
}

// A folder that has given way to none: its owner was killed between the two renamings of
// replace(), when the new one was complete.
void AtomicDirectory::recover(const std::string& folder) {
  for (const std::string& name : folders_in(folder)) {
    const std::optional<OwnedName> old = parse_owned_name(name, kReplaced);
    if (!old || !has_ended(old->owner)) continue;
    const std::string place = folder + "/" + old->base;
    std::error_code code;
    if (fs::exists(fs::symlink_status(place, code))) continue;
    const std::string complete = owned_name(place, kTemporary, old->owner);
    const std::string from = fs::exists(complete, code) ? complete : folder + "/" + name;
    if (rename_path(from, place) != 0) fail(ErrorKind::kStorage, "put back", place);
    sync_folder(folder);
  }
}

void AtomicDirectory::remove_abandoned(const std::string& folder) {
  recover(folder);
  for (const std::string& name : folders_in(folder)) {
    std::optional<OwnedName> owned = parse_owned_name(name, kTemporary);
    if (!owned) owned = parse_owned_name(name, kReplaced);
    std::error_code code;
    if (owned && has_ended(owned->owner)) fs::remove_all(folder + "/" + name, code);
  }
}

}  // namespace hetmem
