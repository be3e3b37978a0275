// The sampler as Python sees it: arguments checked, the GIL let go.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "binding/arrays.h"
#include "binding/pool.h"
#include "sampling/sampler.h"

namespace geminate {

struct RuleRef {
  SequenceRule rule;

  RuleRef(double temperature, int64_t top_k, double top_p, double least, double repetition, double presence,
          double frequency, const std::vector<int64_t>& bias_ids, const std::vector<double>& bias_amounts,
          uint64_t seed, uint64_t choice);
};

class SamplerRef {
 public:
  SamplerRef(const PoolRef& pool, const std::string& isa);

  std::vector<std::vector<int64_t>> draw(In<float> logits, const std::vector<const RuleRef*>& rules,
                                         const std::vector<int64_t>& firsts,
                                         const std::vector<int64_t>& positions,
                                         std::vector<std::vector<int64_t>> drafts,
                                         const std::vector<In<int64_t>>& counted,
                                         std::optional<In<bool>> allowed);
  bool logprobs(In<float> logits, const std::vector<int64_t>& tokens, int64_t top, Out<double> chosen,
                Out<int32_t> ids, Out<double> values);

 private:
  Sampler sampler_;
};

}  // namespace geminate
