// Draws from the rows of a pass, on the thread pool.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "program/thread_pool.h"
#include "sampling/row.h"

namespace geminate {

// How one sequence samples; as geminate.params.ResolvedSampling.
struct SequenceRule {
  DrawRule draw;
  double repetition = 1.0, presence = 0.0, frequency = 0.0;
  std::vector<int64_t> bias_ids;  // ascending
  std::vector<double> bias_amounts;
  uint64_t seed = 0, choice = 0;

  bool counts() const { return repetition != 1.0 || presence != 0.0 || frequency != 0.0; }
};

// k + 1 consecutive rows of one sequence: after its last token, then after each of k drafts.
struct Part {
  const SequenceRule* rule = nullptr;
  int64_t first = 0;     // row
  int64_t position = 0;  // of the token that the first row predicts
  std::vector<int64_t> drafts;
  // Distinct tokens of the sequence and how often each stands in its output, [counted].
  const int64_t* ids = nullptr;
  const int64_t* output = nullptr;
  int64_t counted = 0;
  const uint8_t* allowed = nullptr;  // [vocabulary], of all its rows; null: all
};

class Sampler {
 public:
  Sampler(std::shared_ptr<ThreadPool> pool, const SamplingKernels& kernels)
      : pool_(std::move(pool)), kernels_(kernels) {}

  // The tokens of each part's rows as if its drafts were right, -1 for a row that cannot be drawn from. Where
  // the rows are small they are drawn in turn, and a part ends with the first that is not its draft.
  std::vector<std::vector<int64_t>> draw(const float* logits, int64_t vocab, const std::vector<Part>& parts);

  // Log-softmax of rows [rows, vocab]: of tokens [rows], and of the `top` most likely, ids and values
  // [rows, top]. False if a logit is not finite.
  bool logprobs(const float* logits, int64_t rows, int64_t vocab, const int64_t* tokens, int64_t top,
                double* chosen, int32_t* ids, double* values);

 private:
  struct Split;
  struct Phase;
  void run(std::vector<Phase>& phases, int threads);
  void prepare(Row& row, const Part& part, int64_t at, const float* logits, int64_t vocab) const;
  std::vector<std::vector<int64_t>> draw_in_turn(const float* logits, int64_t vocab,
                                                 const std::vector<Part>& parts);

  std::shared_ptr<ThreadPool> pool_;
  const SamplingKernels& kernels_;
  std::mutex busy_;
  std::vector<Row> rows_;  // kept for their memory
};

}  // namespace geminate
