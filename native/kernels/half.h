// float16 and bfloat16 in plain C++. Internal linkage: per-ISA files include this with different flags.
#pragma once

#include <cstdint>

namespace geminate {
namespace {

[[maybe_unused]] inline float float_of(uint32_t bits) {
  float out;
  __builtin_memcpy(&out, &bits, 4);
  return out;
}

[[maybe_unused]] inline uint32_t bits_of(float x) {
  uint32_t out;
  __builtin_memcpy(&out, &x, 4);
  return out;
}

[[maybe_unused]] inline float widen_bf16(uint16_t x) { return float_of(static_cast<uint32_t>(x) << 16); }

[[maybe_unused]] inline float widen_half(uint16_t x) {
  const uint32_t sign = static_cast<uint32_t>(x & 0x8000u) << 16;
  const uint32_t exponent = (x >> 10) & 31u, mantissa = x & 0x3ffu;
  if (exponent == 0) {  // zero and subnormals: an integer times 2^-24, exact
    const float size = static_cast<float>(mantissa) * 0x1p-24f;
    return sign ? -size : size;
  }
  if (exponent == 31) {
    const uint32_t quiet = mantissa ? 0x400000u : 0u;
    return float_of(sign | 0x7f800000u | quiet | (mantissa << 13));
  }
  return float_of(sign | ((exponent + 112u) << 23) | (mantissa << 13));
}

// Round to nearest even; bit for bit what vcvtps2ph does.
[[maybe_unused]] inline uint16_t round_half(float x) {
  const uint32_t bits = bits_of(x), size = bits & 0x7fffffffu;
  const uint32_t sign = (bits >> 16) & 0x8000u;
  uint32_t out;
  if (size > 0x7f800000u) {
    out = 0x7e00u | ((size >> 13) & 0x3ffu);
  } else if (size >= 0x477ff000u) {  // 65520 and above round to infinity
    out = 0x7c00u;
  } else if (size < 0x38800000u) {  // subnormal: adding 0.5 leaves the rounded integer in the low bits
    out = bits_of(float_of(size) + 0.5f) - 0x3f000000u;
  } else {
    out = (size + 0xfffu + ((size >> 13) & 1u) - 0x38000000u) >> 13;
  }
  return static_cast<uint16_t>(sign | out);
}

}  // namespace
}  // namespace geminate
