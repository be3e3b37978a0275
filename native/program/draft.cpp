// The drafter's round: k steps in one call, each draft token fed back.
#include "program/draft.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>

#include "program/program.h"
#include "sampling/noise.h"
#include "sampling/row.h"

namespace geminate {
namespace {

constexpr int64_t kTopK = 64;  // candidates considered when the rule sets no top_k

// Index of the draft token among n candidates; ids null: candidate i is token i.
int64_t choose_draft_token(Row& row, const SamplingKernels& kernels, const float* logits, const int32_t* ids,
                           int64_t n, const DraftRule& rule, int64_t position) {
  DrawRule draw{rule.temperature, rule.top_k > 0 ? rule.top_k : kTopK, rule.top_p};
  if (rule.min_p > 0.0)
    draw.least = elementary::log(std::max(rule.min_p, std::numeric_limits<double>::min()));
  const uint64_t key = stream_key(rule.seed, rule.choice, static_cast<uint64_t>(position));
  row.begin(kernels, logits, n, draw, key, ids);
  return std::max<int64_t>(row.draw(), 0);  // 0 if a logit is not finite
}

}  // namespace

int64_t Program::draft(Pass pass, int32_t token, const float* hidden, int64_t position, int64_t k,
                       const DraftRule& rule, const DraftStop& stop, int32_t* ids, float* probabilities) {
  const Buffer& input = buffer(hidden_in_);
  const Buffer& logits = buffer(logits_);
  const int64_t n = logits.width;
  std::memcpy(input.base, hidden, static_cast<size_t>(input.width) * sizeof(float));
  pass.ids = &token;
  float survival = 1.0f;
  const SamplingKernels& sampling = sampling_kernels(kernels_->name);
  Row row;
  for (int64_t j = 0; j < k; ++j) {
    run(pass);
    const int32_t* candidates =
        candidates_ < 0 ? nullptr : reinterpret_cast<const int32_t*>(buffer(candidates_).base);
    const int64_t at = choose_draft_token(row, sampling, logits.base, candidates, n, rule, position + 1 + j);
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
