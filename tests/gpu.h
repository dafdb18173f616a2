// For tests that need a GPU: they are skipped where there is none.
#pragma once

#include <gtest/gtest.h>

#include "device/device.h"

#define HETMEM_REQUIRE_GPU()                                                   \
  if (hetmem::find_gpus().first_usable() < 0) {                                \
    GTEST_SKIP() << "no GPU that can be used; " << hetmem::find_gpus().reason; \
  }
