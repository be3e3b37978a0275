#include "binding/sampling.h"

#include <algorithm>

namespace geminate {

RuleRef::RuleRef(double temperature, int64_t top_k, double top_p, double least, double repetition,
                 double presence, double frequency, const std::vector<int64_t>& bias_ids,
                 const std::vector<double>& bias_amounts, uint64_t seed, uint64_t choice)
    : rule{{temperature, top_k, top_p, least},
           repetition,
           presence,
           frequency,
           bias_ids,
           bias_amounts,
           seed,
           choice} {
  require(bias_ids.size() == bias_amounts.size(), "SamplingRule: bias_amounts has ", bias_amounts.size(),
          " values, expected ", bias_ids.size(), " for as many bias_ids");
  require(std::is_sorted(bias_ids.begin(), bias_ids.end(), std::less_equal<int64_t>()) &&
              (bias_ids.empty() || bias_ids.front() >= 0),
          "SamplingRule: bias_ids must be 0 or more, and ascending");
}

SamplerRef::SamplerRef(const PoolRef& pool, const std::string& isa)
    : sampler_(pool.pool, sampling_kernels(kernels_named("Sampler", isa).name)) {}

// [rows, vocab] of logits.
static std::pair<int64_t, int64_t> shape_of(const char* call, const In<float>& logits) {
  require(logits.ndim() == 2 && logits.size() > 0, call, ": logits must be [rows, vocabulary] and not empty");
  return {static_cast<int64_t>(logits.shape(0)), static_cast<int64_t>(logits.shape(1))};
}

static void require_ids(const char* name, const int64_t* ids, int64_t n, int64_t vocab) {
  for (int64_t i = 0; i < n; ++i) {
    require(ids[i] >= 0 && ids[i] < vocab, name, "[", i, "] is ", ids[i], ", but the vocabulary has ", vocab);
  }
}

std::vector<std::vector<int64_t>> SamplerRef::draw(In<float> logits, const std::vector<const RuleRef*>& rules,
                                                   const std::vector<int64_t>& firsts,
                                                   const std::vector<int64_t>& positions,
                                                   std::vector<std::vector<int64_t>> drafts,
                                                   const std::vector<In<int64_t>>& counted,
                                                   std::optional<In<bool>> allowed) {
  const auto [rows, vocab] = shape_of("draw", logits);
  require(firsts.size() == rules.size() && positions.size() == rules.size() && drafts.size() == rules.size(),
          "draw: rules, firsts, positions and drafts have ", rules.size(), ", ", firsts.size(), ", ",
          positions.size(), " and ", drafts.size(), " values, expected as many");
  std::vector<Part> parts(rules.size());
  size_t next = 0;  // of the arrays in `counted`
  for (size_t i = 0; i < rules.size(); ++i) {
    require(rules[i] != nullptr, "draw: rules[", i, "] is None");
    Part& part = parts[i];
    part.rule = &rules[i]->rule;
    part.first = firsts[i], part.position = positions[i], part.drafts = std::move(drafts[i]);
    const int64_t k = static_cast<int64_t>(part.drafts.size());
    require(part.first >= 0 && part.first + k < rows, "draw: rows ", part.first, " to ", part.first + k,
            " of part ", i, ", but logits has ", rows);
    require_ids("draw: drafts", part.drafts.data(), k, vocab);
    if (!part.rule->counts()) continue;
    require(counted.size() >= next + 2, "draw: counted has ", counted.size(), " arrays, but rule ", i,
            " takes two");
    const In<int64_t>&ids = counted[next], &output = counted[next + 1];
    next += 2;
    require_size(output, size_of(ids), "draw", "counted", "as many ids");
    require_ids("draw: counted", ids.data(), size_of(ids), vocab);
    part.ids = ids.data(), part.output = output.data(), part.counted = size_of(ids);
  }
  require(counted.size() == next, "draw: counted has ", counted.size(), " arrays, expected ", next);
  if (allowed) {
    require_size(*allowed, vocab, "draw", "allowed", "one row");
    for (Part& part : parts) part.allowed = reinterpret_cast<const uint8_t*>(allowed->data());
  }
  const nb::gil_scoped_release release;
  return sampler_.draw(logits.data(), vocab, parts);
}

bool SamplerRef::logprobs(In<float> logits, const std::vector<int64_t>& tokens, int64_t top,
                          Out<double> chosen, Out<int32_t> ids, Out<double> values) {
  const auto [rows, vocab] = shape_of("logprobs", logits);
  require(static_cast<int64_t>(tokens.size()) == rows, "logprobs: tokens has ", tokens.size(),
          " values, but logits has ", rows, " rows");
  require_ids("logprobs: tokens", tokens.data(), rows, vocab);
  require(top >= 0 && top <= vocab, "logprobs: top is ", top, ", expected 0 to ", vocab);
  require_size(chosen, rows, "logprobs", "chosen", rows, " rows");
  require_size(ids, rows * top, "logprobs", "ids", rows, " rows of ", top);
  require_size(values, rows * top, "logprobs", "values", rows, " rows of ", top);
  const nb::gil_scoped_release release;
  return sampler_.logprobs(logits.data(), rows, vocab, tokens.data(), top, chosen.data(), ids.data(),
                           values.data());
}

}  // namespace geminate
