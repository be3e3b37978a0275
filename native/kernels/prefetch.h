// Calling weights near before they are multiplied.
#pragma once

#include <cstdint>

namespace geminate {

// How far ahead of the multiplication weights are called into the second-level cache. Without this, a pass
// over several rows takes its arithmetic plus its memory time; with it, the larger of the two
// (docs/lab-notes.md).
constexpr int64_t kAhead = 6144;

static inline void prefetch(const void* address) { __builtin_prefetch(address, 0, 2); }

}  // namespace geminate
