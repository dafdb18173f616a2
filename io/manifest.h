// manifest.json: the sizes and XXH3-128 sums of the files of a folder, written last, so that a
// folder can be checked before it is trusted. Stateless.
#pragma once

#include <string>
#include <vector>

#include "io/checksum.h"

namespace hetmem {

// Says what the files of `folder` should hold. Throws Error (kStorage).
void write_manifest(const std::string& folder, const std::vector<FileSum>& sums);
bool has_manifest(const std::string& folder);
// Throws Error (kCorrupt) that names the file which is missing, or of another size or sum, the
// manifest among them; kBadInput where the folder has none. Any byte that changed is found.
void verify_manifest(const std::string& folder);
// The name of something in `folder` that was not written with its manifest (without one, or with
// one that cannot be read: of anything), else empty. Contents are not looked at. Throws Error
// (kStorage).
std::string unlisted_entry(const std::string& folder);

}  // namespace hetmem
