// The logging seam: the library reports through it and never prints. Without a sink, records are
// dropped. Thread-safe; the sink is called under a lock.
#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace hetmem {

enum class LogLevel { kDebug, kInfo, kWarning };

using LogSink = std::function<void(LogLevel, std::string_view)>;

// Replaces the process's sink; an empty one silences it.
void set_log_sink(LogSink sink);
void log(LogLevel level, std::string_view message);

}  // namespace hetmem
