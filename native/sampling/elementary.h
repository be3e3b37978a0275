// log and weights as fixed sequences of IEEE operations: geminate.elementary in C++, bit for bit.
//
// Static, and free of branches where a loop should become vectors: files of several instruction sets
// include this.
#pragma once

#include <cstdint>

namespace geminate::elementary {

constexpr double kLog2E = 1.4426950408889634;
// ln 2 in two parts, the first with 21 trailing zero bits: its product with an exponent is exact.
constexpr double kLn2High = 6.93147180369123816490e-01, kLn2Low = 1.90821492927058770002e-10;
constexpr double kSqrtHalf = 0.70710678118654757;
// Added to a double below 2^51 in size it rounds that to an integer, ties to even, in the low bits.
constexpr double kRounder = 0x1.8p52;
constexpr int kWeightBits = 44;

static inline uint64_t bits_of(double x) { return __builtin_bit_cast(uint64_t, x); }
static inline double double_of(uint64_t bits) { return __builtin_bit_cast(double, bits); }

// e**y for y <= 0 in multiples of 2**-44, to the nearest; 0 below -31.2. Not for NaN.
static inline uint64_t weight(double y) {
  const double low = y > -40.0 ? y : -40.0;
  const double shifted = low * kLog2E + kRounder;
  const double n = shifted - kRounder;
  const double r = (low - n * kLn2High) - n * kLn2Low;
  double p = 1.0 / 39916800.0;  // Taylor, |r| <= ln 2 / 2
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  const double scale = double_of((bits_of(shifted) + (1023 + kWeightBits)) << 52);  // 2**(n + 44)
  return bits_of(p * scale + kRounder) - bits_of(kRounder);
}

// Natural logarithm of a positive, finite, normal z.
static inline double log(double z) {
  const uint64_t bits = bits_of(z);
  const double fraction = double_of((bits & 0xFFFFFFFFFFFFFull) | 1022ull << 52);  // in [1/2, 1)
  const bool small = fraction < kSqrtHalf;
  const double f = (small ? fraction + fraction : fraction) - 1.0;
  const double e = static_cast<double>(static_cast<int64_t>(bits >> 52) - 1022 - (small ? 1 : 0));
  const double s = f / (f + 2.0);
  const double q = s * s;
  double series = 2.0 / 19.0;  // of log((1 + s) / (1 - s)), |s| < 0.1716
  series = series * q + 2.0 / 17.0;
  series = series * q + 2.0 / 15.0;
  series = series * q + 2.0 / 13.0;
  series = series * q + 2.0 / 11.0;
  series = series * q + 2.0 / 9.0;
  series = series * q + 2.0 / 7.0;
  series = series * q + 2.0 / 5.0;
  series = series * q + 2.0 / 3.0;
  return e * kLn2High - ((s * (f - series * q) - e * kLn2Low) - f);
}

}  // namespace geminate::elementary
