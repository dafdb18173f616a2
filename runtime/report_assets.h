// The style sheet and the script of the run report: they are part of the page. Classes of the
// pictures are colours, given for light and for dark.
#pragma once

#include <string_view>

namespace hetmem {

std::string_view report_style();
std::string_view report_script();

}  // namespace hetmem
