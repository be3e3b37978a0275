// One row of logits on its way to a token: geminate.decoding.sampling.distribution and draw, in stages that
// threads can share. What each stage computes does not depend on how the row was divided.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "sampling/kernels.h"

namespace geminate {

// How a sequence draws; as geminate.params.ResolvedSampling, without what changes logits.
struct DrawRule {
  double temperature = 0.0;  // 0: the largest
  int64_t top_k = 0;         // 0: all
  double top_p = 1.0;
  double least = -HUGE_VAL;  // log of min_p
};

// The best token so far.
struct Winner {
  double score = -HUGE_VAL;
  int64_t id = -1;
};

// The mass of a row's tokens, and of those before the winner in the order of top_p.
struct Mass {
  uint64_t total = 0, before = 0;
};

class Row {
 public:
  // What is to be done next; see `draw` for the order.
  enum class Stage { done, noise, mass, buckets };

  // A row x [n]. tokens [n], or null: index i is token i.
  void begin(const SamplingKernels& kernels, const float* x, int64_t n, const DrawRule& rule, uint64_t key,
             const int32_t* tokens = nullptr);
  // Only tokens with allowed[i] != 0, [n].
  void restrict_to(const uint8_t* allowed) { allowed_ = allowed; }
  // Logits that take the place of x's, each id at most once; before `scan`.
  struct Changed {
    double x;
    int32_t id;
  };
  void change(const std::vector<Changed>& changes);
  // Nothing can be drawn.
  void refuse() { refused_ = true; }

  int64_t stripes() const { return stripes_; }
  int64_t size() const { return n_; }
  const float* logits() const { return x_; }
  double peak() const { return peak_; }

  // Of stripes begin .. end - 1: maxima for later; false if a logit is not finite.
  bool scan(int64_t begin, int64_t end);
  // After all scans. Draws at once if few tokens are left to choose from.
  void settle(bool finite);
  Stage stage() const { return stage_; }
  // The best of some stripes; then `propose` the best of all. It is drawn unless top_p has to be asked.
  Winner noise(int64_t begin, int64_t end) const;
  void propose(Winner best);
  // top_p: the masses of some stripes; then `check` with their sums. The best of all tokens is the best of
  // those that top_p keeps if it is one of them, as it mostly is.
  Mass weigh(int64_t begin, int64_t end) const;
  void check(Mass mass);
  // Else: the weights of some stripes, added to buckets [kBuckets]; then `cut` with their sums, and noise
  // again.
  void weigh(int64_t begin, int64_t end, uint64_t* buckets) const;
  void cut(uint64_t* buckets);
  // All stages in this thread; returns `drawn`.
  int64_t draw();
  // Index of the token drawn; -1 where there is none: a logit is not finite or too large, or no token is
  // left.
  int64_t drawn() const { return drawn_; }

  // For log-probabilities, after `settle`: the k largest in order.
  void top(int64_t k, int32_t* ids, double* values);

 private:
  struct Entry {
    double x;
    uint64_t weight;
    int32_t id;
    // Falling value, then rising index.
    bool operator<(const Entry& other) const { return x > other.x || (x == other.x && id < other.id); }
  };

  const float* stripe(int64_t s, float* buffer) const;
  double scaled(double x) const { return (x - peak_) * inverse_; }
  float below(double y) const;
  float above(double y) const;
  float bound_of_largest(int64_t k);
  void collect(int64_t s, float low, float high, std::vector<Entry>& out) const;
  void select(int64_t k);
  int64_t greedy() const;
  int64_t draw_selected();
  void keep_mass(uint64_t limit);
  void offer(Winner& best, double x, int64_t id) const;
  double logit(int64_t id) const;

  const SamplingKernels* kernels_ = nullptr;
  const float* x_ = nullptr;
  const int32_t* tokens_ = nullptr;
  const uint8_t* allowed_ = nullptr;
  int64_t n_ = 0, stripes_ = 0, drawn_ = -1;
  DrawRule rule_;
  uint64_t key_ = 0;
  bool refused_ = false, cut_ = false;
  Stage stage_ = Stage::done;
  double drawn_x_ = 0.0;
  double temperature_ = 1.0, inverse_ = 1.0, peak_ = 0.0;
  // The last token that top_p keeps.
  double cut_x_ = -HUGE_VAL;
  int64_t cut_id_ = std::numeric_limits<int64_t>::max();
  std::vector<float> maxima_, tops_, groups_;  // [stripes, kLanes], [stripes], scratch
  std::vector<Changed> changes_;               // by stripe, those of stripe s from starts_[s]
  std::vector<int32_t> starts_;
  std::vector<Entry> entries_;
};

}  // namespace geminate
