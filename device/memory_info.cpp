// What the operating system says of memory: free bytes under control-group limits, resident set.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include "core/error.h"
#include "device/tier.h"

namespace hetmem {
namespace {

constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();

// The number in the first line of a file; kUnlimited where there is none ("max").
int64_t read_number(const std::string& path) {
  std::ifstream file(path);
  int64_t number = 0;
  return file >> number ? number : kUnlimited;
}

// "MemAvailable:   123 kB" in /proc/meminfo or "VmRSS:  123 kB" in /proc/self/status, in bytes.
int64_t read_kib_field(const std::string& path, const std::string& field) {
  std::ifstream file(path);
  std::string line;
  while (std::getline(file, line)) {
    if (line.rfind(field, 0) != 0) continue;
    std::istringstream rest(line.substr(field.size()));
    int64_t kib = 0;
    if (rest >> kib) return kib * 1024;
  }
  return kUnlimited;
}

// "total_inactive_file 123" in memory.stat: page cache that the kernel gives back under pressure.
int64_t read_stat(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  std::string name;
  int64_t value = 0;
  while (file >> name >> value) {
    if (name == key) return value;
  }
  return 0;
}

// A mounted control-group file system that limits memory.
struct GroupMount {
  std::string group;   // the group that its root shows: "/", or a container's own
  std::string folder;  // where it is mounted
  bool version2;
};

bool has_item(const std::string& list, const std::string& item) {
  std::istringstream items(list);
  std::string found;
  while (std::getline(items, found, ',')) {
    if (found == item) return true;
  }
  return false;
}

// "35 31 0:32 /group /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory"; between the
// mount's options and the dash there may be more fields.
std::vector<GroupMount> group_mounts(const std::string& root) {
  std::vector<GroupMount> mounts;
  std::ifstream file(root + "/proc/self/mountinfo");
  std::string line;
  while (std::getline(file, line)) {
    const auto dash = line.find(" - ");
    if (dash == std::string::npos) continue;
    std::istringstream left(line);
    std::istringstream right(line.substr(dash + 3));
    std::string id, parent, device, group, folder, type, source, options;
    left >> id >> parent >> device >> group >> folder;
    right >> type >> source >> options;
    const bool version2 = type == "cgroup2";
    if (!version2 && (type != "cgroup" || !has_item(options, "memory"))) continue;
    mounts.push_back({group, root + folder, version2});
  }
  return mounts;
}

// The group of this process as /proc/self/cgroup gives it, "0::/group" (v2) or "4:memory:/group"
// (v1); empty where there is none.
std::string own_group(const std::string& root, bool version2) {
  std::ifstream groups(root + "/proc/self/cgroup");
  std::string line;
  while (std::getline(groups, line)) {
    const auto first = line.find(':');
    const auto second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (version2 ? controllers.empty() : has_item(controllers, "memory")) {
      return line.substr(second + 1);
    }
  }
  return "";
}

// What the limits of one group leave, page cache that is given back under pressure not counted.
int64_t headroom(const std::string& folder, bool version2) {
  const int64_t limit =
      version2 ? std::min(read_number(folder + "/memory.max"), read_number(folder + "/memory.high"))
               : read_number(folder + "/memory.limit_in_bytes");
  const int64_t used =
      read_number(folder + (version2 ? "/memory.current" : "/memory.usage_in_bytes"));
  if (limit == kUnlimited || used == kUnlimited) return kUnlimited;
  const int64_t cache =
      read_stat(folder + "/memory.stat", version2 ? "inactive_file" : "total_inactive_file");
  return std::max<int64_t>(0, limit - std::max<int64_t>(0, used - cache));
}

// The tightest along the path from the process's own group to the root of the mount.
int64_t headroom_of_path(const GroupMount& mount, std::string group) {
  // A container may see its own group as the root of the mount, and its path from the machine's.
  const std::string& shown = mount.group;
  const bool below =
      group.rfind(shown, 0) == 0 && (group.size() == shown.size() || group[shown.size()] == '/');
  if (shown != "/" && below) group.erase(0, shown.size());
  int64_t least = kUnlimited;
  while (true) {
    least = std::min(least, headroom(mount.folder + group, mount.version2));
    if (group.empty()) return least;
    group.resize(std::min(group.size() - 1, group.find_last_of('/')));
  }
}

int64_t control_group_headroom(const std::string& root) {
  int64_t least = kUnlimited;
  for (const GroupMount& mount : group_mounts(root)) {
    least = std::min(least, headroom_of_path(mount, own_group(root, mount.version2)));
  }
  return least;
}

}  // namespace

int64_t available_memory(const std::string& root) {
  return std::min(read_kib_field(root + "/proc/meminfo", "MemAvailable:"),
                  control_group_headroom(root));
}

int64_t resident_bytes() { return read_kib_field("/proc/self/status", "VmRSS:"); }
int64_t peak_resident_bytes() { return read_kib_field("/proc/self/status", "VmHWM:"); }

int64_t touched_bytes(const void* memory, int64_t bytes) {
  static const int64_t page = sysconf(_SC_PAGESIZE);
  constexpr int64_t kPagesAtOnce = 1 << 16;
  auto* at = static_cast<char*>(const_cast<void*>(memory));  // mincore() only looks
  int64_t left = (bytes + page - 1) / page;
  std::vector<unsigned char> present(static_cast<size_t>(std::min(left, kPagesAtOnce)));
  int64_t touched = 0;
  while (left > 0) {
    const int64_t pages = std::min(left, kPagesAtOnce);
    HETMEM_ASSERT(mincore(at, static_cast<size_t>(pages * page), present.data()) == 0);
    for (int64_t i = 0; i < pages; ++i) touched += present[static_cast<size_t>(i)] & 1;
    at += pages * page;
    left -= pages;
  }
  return touched * page;
}

}  // namespace hetmem
