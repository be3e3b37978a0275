// How a draft token is chosen, and when a draft ends.
#pragma once

#include <cstdint>

namespace geminate {

// As geminate.decoding.draft_rule.DraftRule.
struct DraftRule {
  double temperature = 0.0;
  int64_t top_k = 0;
  double top_p = 1.0, min_p = 0.0;
  uint64_t seed = 0, choice = 0;
};

constexpr int kStopBins = 16;

// As geminate.decoding.draft_rule.DraftStop: ends a draft before k tokens. After token j, whose probability
// falls into one of kStopBins even bins, the draft goes on only if the product of calibration[bin] so far
// times ahead[j + 1] reaches need[j + 1]. Null: never ends early.
struct DraftStop {
  const float* calibration = nullptr;  // [kStopBins]
  const float* ahead = nullptr;        // [k]
  const float* need = nullptr;         // [k]
};

}  // namespace geminate
