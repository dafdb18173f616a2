// What the operating system says of memory: free bytes under control-group limits, resident set.
#include <algorithm>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>

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

// What the limit of one control-group folder leaves.
int64_t headroom(const std::string& folder, bool version2) {
  const int64_t limit = read_number(folder + (version2 ? "/memory.max" : "/memory.limit_in_bytes"));
  const int64_t used =
      read_number(folder + (version2 ? "/memory.current" : "/memory.usage_in_bytes"));
  if (limit == kUnlimited || used == kUnlimited) return kUnlimited;
  const int64_t cache =
      read_stat(folder + "/memory.stat", version2 ? "inactive_file" : "total_inactive_file");
  return std::max<int64_t>(0, limit - std::max<int64_t>(0, used - cache));
}

// The tightest limit along the path of this process's group, from its own folder to the root.
int64_t control_group_headroom() {
  int64_t least = kUnlimited;
  std::ifstream groups("/proc/self/cgroup");
  std::string line;
  while (std::getline(groups, line)) {  // "0::/path" (v2) or "4:memory:/path" (v1)
    const auto first = line.find(':');
    const auto second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool version2 = controllers.empty();
    if (!version2 && controllers.find("memory") == std::string::npos) continue;
    const std::string root = version2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory";
    std::string path = line.substr(second + 1);
    while (true) {
      least = std::min(least, headroom(root + path, version2));
      if (path.empty()) break;
      path.resize(std::min(path.size() - 1, path.find_last_of('/')));
    }
  }
  return least;
}

}  // namespace

int64_t available_memory() {
  return std::min(read_kib_field("/proc/meminfo", "MemAvailable:"), control_group_headroom());
}

int64_t resident_bytes() { return read_kib_field("/proc/self/status", "VmRSS:"); }
int64_t peak_resident_bytes() { return read_kib_field("/proc/self/status", "VmHWM:"); }

}  // namespace hetmem
