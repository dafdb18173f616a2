// Files: positional reads and writes that finish or throw, and whole small files. A File may be
// read from several threads at once; writing is for one.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "core/error.h"

namespace hetmem {

class File {
 public:
  // Opens a regular file for reading. Throws Error (kBadInput) where it is missing or is none.
  static File open_for_reading(const std::string& path);
  // Creates or empties a file. Throws Error (kStorage).
  static File create(const std::string& path);
  // Creates a file, or opens it as it is, to write behind what is there. Throws as create() does.
  static File open_for_appending(const std::string& path);
  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;
  ~File();

  const std::string& path() const { return path_; }
  int64_t size() const;
  // All `bytes` at `offset`, or Error (kStorage): a short read is one.
  void read(int64_t offset, void* destination, int64_t bytes) const;
  void write(int64_t offset, const void* source, int64_t bytes);
  // Behind what was appended before, for a large file that nobody reads soon: what is appended goes
  // to the disk at once and out of the page cache, which would otherwise take as much fresh memory
  // and, with it, most of the time that writing costs the processor.
  void append(const void* source, int64_t bytes);
  void sync();

 private:
  File(std::string path, int descriptor) : path_(std::move(path)), descriptor_(descriptor) {}
  void write_behind();

  std::string path_;
  int descriptor_ = -1;
  int64_t appended_ = 0;
  int64_t sent_ = 0;     // of what was appended: told to go to the disk
  int64_t dropped_ = 0;  // of that: there, and out of the page cache
};

// Throws Error (kBadInput) where the file is missing or not a regular one.
std::string read_text_file(const std::string& path);
// Where a file that a user has named is to be written so that a renaming replaces that file alone:
// the name or, of a link, what it leads to. Throws Error (kBadInput) where it leads nowhere, or
// where something else than a regular file is there.
std::string writable_file(const std::string& path);
// Writes, syncs and renames into place, which is writable_file()'s. Throws Error (kStorage,
// kBadInput).
void write_text_file(const std::string& path, std::string_view text);
// Where it is until it is complete; a process that is killed leaves it there.
std::string unfinished_path(const std::string& path);

// Makes a folder and those above it that are not there, so that they stay. Throws Error (kStorage,
// kBadInput); nothing is then left.
void make_folders(const std::string& path);

// A new folder for files that nobody else is to see, whose name begins so, where TMPDIR says.
// Throws Error (kStorage, kBadInput).
std::string make_temporary_folder(const std::string& prefix);
// Throws Error (kBadInput) where a name needs the working directory and that was removed.
std::string absolute_path(const std::string& path);

// What the file system threw, as bad input where the path can be another, else as the storage's.
Error error_of_file_system(const std::filesystem::filesystem_error& error);

// A directory that appears complete or not at all: files go into a temporary beside the final name;
// commit() syncs them and renames. Without commit() the temporary is removed; what a process that
// was killed left is found by remove_abandoned().
class AtomicDirectory {
 public:
  // What a link leads to is written, the link stays. Throws Error (kStorage) where the temporary
  // cannot be made, and Error (kBadInput) where the path is empty, is a link that leads nowhere, or
  // something is there that is no folder.
  explicit AtomicDirectory(std::string final_path);
  ~AtomicDirectory();
  AtomicDirectory(const AtomicDirectory&) = delete;
  AtomicDirectory& operator=(const AtomicDirectory&) = delete;
  const std::string& path() const { return temporary_; }
  // Replaces what is at the final path: at every moment one of the two is there, complete, on file
  // systems that can exchange names, and on others one is there or, for a moment, none: recover()
  // puts it back.
  void commit();
  // Removes a directory so that it is there complete or not at all. Throws Error (kStorage).
  static void remove(const std::string& path);
  // Gives a directory another name in the same folder, for good; false where that is taken. Throws
  // Error (kStorage).
  static bool rename(const std::string& from, const std::string& to);
  // Of processes that were killed, in `folder`: gives what was about to be replaced its name.
  // Throws Error (kStorage).
  static void recover(const std::string& folder);
  // The same, and removes their temporaries. Nothing else has such a name.
  static void remove_abandoned(const std::string& folder);

 private:
  bool replace();
  std::string final_;
  std::string temporary_;
  std::string replaced_;  // what was at the final path, for a moment
};

}  // namespace hetmem
