// What an x86-64 processor and its operating system run. The compiler's __builtin_cpu_supports is not used:
// some run-time libraries, zig's among them, answer no to everything.
#pragma once

#if defined(GEMINATE_X86)
#include <cpuid.h>

#include <cstdint>

namespace geminate {

struct X86Features {
  bool avx2 = false;     // with FMA and F16C
  bool avx512 = false;   // F, BW, VL, DQ and VNNI
  bool avxvnni = false;  // the VEX form of vpdpbusd
};

namespace x86 {

inline bool has(unsigned bits, int bit) { return (bits >> bit & 1) != 0; }

// The register sets that the operating system saves (XCR0).
inline uint64_t saved_sets() {
  uint32_t low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<uint64_t>(high) << 32 | low;
}

}  // namespace x86

// Bits of CPUID's leaves 1 and 7: Intel's Software Developer's Manual, volume 2, CPUID.
inline X86Features x86_features() {
  using x86::has;
  X86Features found;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0 || !has(c, 27)) return found;  // the system has no XSAVE
  const uint64_t saved = x86::saved_sets();
  const bool old = has(c, 12) && has(c, 28) && has(c, 29) && (saved & 6) == 6;  // FMA, AVX, F16C
  if (!old || __get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return found;
  found.avx2 = has(b, 5);
  found.avx512 = found.avx2 && has(b, 16) && has(b, 17) && has(b, 30) && has(b, 31) && has(c, 11) &&
                 (saved & 0xe6) == 0xe6;
  const bool more = a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0;
  found.avxvnni = found.avx2 && more && has(a, 4);
  return found;
}

}  // namespace geminate
#endif
