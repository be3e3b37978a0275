// geminate.decoding.noise in C++, and a bound that tells without a logarithm which token cannot win.
//
// A draw is argmax of y + G, y the scaled logit and G = -log(-log u). Because -log u >= 1 - u,
//   G <= -log(1 - u),
// so y + G >= best only if 1 - u <= exp(y - best). 1 - u comes straight from the hash, and exp has the upper
// bound 2**(n + f) <= 2**n * (1 + f), 0 <= f < 1, which is a float whose bits are a linear function of the
// exponent. Both sides are rounded: kSlack, in units of the exponent, is larger than all of that (0.7 %
// against some 2**-22). In a row of any shape about two tokens pass once the best is known, because the sum
// of exp(y - best) over the row is an exponential variable of mean 1.
//
// 1 - u >= 2**-53 and u >= 2**-53 give G <= 53 ln 2 < kMostNoise and G >= -log(53 ln 2) > kLeastNoise.
#pragma once

#include <cstdint>

#include "sampling/elementary.h"

namespace geminate {

constexpr uint64_t kGamma = 0x9E3779B97F4A7C15ull;
constexpr double kMostNoise = 36.75, kLeastNoise = -3.61;
constexpr float kSlack = 0.01f;

static inline uint64_t mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

static inline uint64_t stream_key(uint64_t seed, uint64_t choice, uint64_t position) {
  uint64_t key = mix(seed + kGamma);
  key = mix((key ^ choice) + kGamma);
  return mix((key ^ position) + kGamma);
}

static inline uint64_t noise_bits(uint64_t key, uint64_t token_id) {
  return mix(key + (token_id + 1) * kGamma);
}

// In (0, 1), from the upper 52 bits of a hash.
static inline double uniform_of(uint64_t bits) { return (static_cast<double>(bits >> 12) + 0.5) * 0x1p-52; }

static inline double gumbel_of(uint64_t bits) { return -elementary::log(-elementary::log(uniform_of(bits))); }

// 2**(biased - 127) from above, clamped to what a float has.
static inline float power_above(float biased) {
  const float positive = biased > 0.0f ? biased : 0.0f;
  const float clamped = positive < 160.0f ? positive : 160.0f;
  return __builtin_bit_cast(float, static_cast<int32_t>(clamped * 8388608.0f));
}

// Whether the noise of these bits may be so large that 1 - u <= 2**(biased - 127).
static inline bool may_win(uint64_t bits, float biased) {
  const float rest = static_cast<float>(static_cast<int32_t>(~bits >> 33)) * 0x1p-31f;  // 1 - u, rounded down
  return rest <= power_above(biased);
}

}  // namespace geminate
