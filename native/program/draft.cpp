// The drafter's round: k steps in one call, each draft token fed back.
#include "program/draft.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "program/largest.h"
#include "program/program.h"

namespace geminate {
namespace {

constexpr uint64_t kGamma = 0x9E3779B97F4A7C15ull;
constexpr int64_t kTopK = 64;  // candidates considered when the rule sets no top_k

uint64_t mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

}  // namespace

uint64_t stream_key(uint64_t seed, uint64_t choice, uint64_t position) {
  uint64_t key = mix(seed + kGamma);
  key = mix((key ^ choice) + kGamma);
  return mix((key ^ position) + kGamma);
}

double uniform(uint64_t key, uint64_t token_id) {
  const uint64_t z = mix(key + (token_id + 1) * kGamma);
  return (static_cast<double>(z >> 11) + 0.5) * 0x1p-53;
}

int64_t choose_draft_token(const float* logits, const int32_t* ids, int64_t n, const DraftRule& rule,
                           int64_t position) {
  if (rule.temperature == 0.0) return std::max_element(logits, logits + n) - logits;
  const int64_t k = std::min(n, rule.top_k > 0 ? rule.top_k : kTopK);
  std::vector<int32_t> order(static_cast<size_t>(k)), scratch;
  largest(logits, n, k, order.data(), scratch);
  std::vector<double> q(static_cast<size_t>(k));
  double sum = 0.0;
  for (int64_t i = 0; i < k; ++i) {
    const size_t at = static_cast<size_t>(i);
    q[at] = std::exp((static_cast<double>(logits[order[at]]) - static_cast<double>(logits[order[0]])) /
                     rule.temperature);
    sum += q[at];
  }
  const uint64_t key = stream_key(rule.seed, rule.choice, static_cast<uint64_t>(position));
  double before = 0.0, best_score = -HUGE_VAL;
  int64_t best = order[0];
  for (int64_t i = 0; i < k; ++i) {
    const size_t at = static_cast<size_t>(i);
    const double p = q[at] / sum;
    if (i > 0 && (before >= rule.top_p || p < rule.min_p * q[0] / sum)) break;  // p descends: nothing follows
    before += p;
    const uint64_t token = static_cast<uint64_t>(ids != nullptr ? ids[order[at]] : order[at]);
    const double score = std::log(p) - std::log(-std::log(uniform(key, token)));
    if (score > best_score) {
      best_score = score;
      best = order[at];
    }
  }
  return best;
}

int64_t Program::draft(Pass pass, int32_t token, const float* hidden, int64_t position, int64_t k,
                       const DraftRule& rule, const DraftStop& stop, int32_t* ids, float* probabilities) {
  const Buffer& input = buffer(hidden_in_);
  const Buffer& logits = buffer(logits_);
  const int64_t n = logits.width;
  std::memcpy(input.base, hidden, static_cast<size_t>(input.width) * sizeof(float));
  pass.ids = &token;
  float survival = 1.0f;
  for (int64_t j = 0; j < k; ++j) {
    run(pass);
    const int32_t* candidates =
        candidates_ < 0 ? nullptr : reinterpret_cast<const int32_t*>(buffer(candidates_).base);
    const int64_t at = choose_draft_token(logits.base, candidates, n, rule, position + 1 + j);
    probabilities[j] = kernels_->softmax_at(logits.base, n, at);
    token = candidates != nullptr ? candidates[at] : static_cast<int32_t>(at);
    // The next round reads the embedding at this row, and so does whoever verifies the draft.
    if (token < 0 || token >= min_vocab_) {
      throw std::invalid_argument("draft: the drafter chose token " + std::to_string(token) +
                                  ", but the vocabulary has " + std::to_string(min_vocab_));
    }
    ids[j] = token;
    if (stop.need != nullptr && j + 1 < k) {
      const float p = probabilities[j] > 0.0f ? probabilities[j] : 0.0f;  // NaN as well
      survival *= stop.calibration[std::min(static_cast<int>(p * kStopBins), kStopBins - 1)];
      if (survival * stop.ahead[j + 1] < stop.need[j + 1]) return j + 1;
    }
    std::memcpy(input.base, buffer(hidden_).base, static_cast<size_t>(input.width) * sizeof(float));
  }
  return k;
}

}  // namespace geminate
