// The style sheet and the script of the run report: they are part of the page. Classes of the
// pictures are colours, given for light and for dark.
#pragma once

#include <string_view>

namespace hetmem {

extern const std::string_view kReportStyle;
extern const std::string_view kReportScript;

}  // namespace hetmem
