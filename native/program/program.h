// A compiled plan: steps over an arena of float32 rows, executed by all threads together.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "contract.h"
#include "program/thread_pool.h"

namespace geminate {

// What a piece of a step is, the unit that threads take.
enum class Split {
  rows,   // a row; consecutive row steps make one piece of each row
  parts,  // tiles, heads, experts
  serial  // all of it
};

enum class Op {
  embed,
  lookup,
  concat,
  norm,
  quantize,
  linear,
  add,
  gelu,
  rope,
  kv_store,
  attention,
  softcap,
  gather,
  tap,
  route,
  group_experts,
  expert_up,
  expert_act,
  expert_down,
  expert_sum,
  pick_clusters,
  cluster_logits
};

struct Step {
  Op op;
  Split split;
  bool head_rows = false;  // works on the gathered rows
  int x = -1, y = -1, out = -1;
  int index = 0;  // rope table, cache slot, tap, or block of scratch
  int heads = 1, kv_heads = 1, head_dim = 0, top_k = 0;
  int64_t offset = 0, window = 0;
  bool include_self = true;
  float scale = 1.0f;  // or eps, or cap
  float cap = 0.0f;    // of a linear step: soft cap on its outputs, 0 for none
  Matrix w{};
  RowTable table{};
  const float* vector = nullptr;
  const int32_t* order = nullptr;  // clusters of candidate ids
  int64_t cluster = 0;             // candidates of a cluster
};

// Pieces that may run in any order: all pieces of one part step, or one piece for each row of some row steps.
struct Work {
  Split split;
  bool head_rows;
  std::vector<size_t> steps;  // one unless the split is rows; in program order
};

// Works without a conflict among them; every piece of a stage is finished before the next stage begins.
using Stage = std::vector<Work>;

// Groups steps into as few stages as their order allows. reads[i] and writes[i] name the resources of step i.
std::vector<Stage> make_stages(const std::vector<Step>& steps, const std::vector<std::vector<int>>& reads,
                               const std::vector<std::vector<int>>& writes);

struct Buffer {
  int64_t width = 0, stride = 0;
  float* base = nullptr;
  float* row(int64_t r) const { return base + r * stride; }
};

struct CacheTable {
  const uint64_t* slots;  // [slots, 3]: address of keys, address of values, rows
};

struct RopeRows {
  const float* cosine;
  const float* sine;
  int64_t pairs;
};

// Consecutive rows of one sequence at consecutive positions: they share one walk over the keys.
struct Run {
  int64_t first, count;
};

// One pass. Pointers stay the caller's.
struct Pass {
  int64_t rows = 0, heads = 0;  // heads: gathered rows
  const int32_t* ids = nullptr;
  const int32_t* positions = nullptr;
  const int32_t* rope_positions = nullptr;
  const int32_t* sequences = nullptr;
  const int32_t* head_rows = nullptr;
  std::vector<CacheTable> caches;
  std::vector<RopeRows> ropes;
  std::vector<float*> taps;  // null entries: not wanted
};

// How the drafter picks; see geminate.decoding.draft_rule.DraftRule.
struct DraftRule {
  double temperature = 0.0;
  int64_t top_k = 0;
  double top_p = 1.0, min_p = 0.0;
  uint64_t seed = 0, choice = 0;
};

// Ends a draft before k guesses: after guess j, whose probability falls into one of kStopBins even bins, goes
// on only if the product of calibration[bin] so far times ahead[j + 1] reaches need[j + 1]. Null: never.
struct DraftStop {
  const float* calibration = nullptr;  // [kStopBins]
  const float* ahead = nullptr;        // [k]
  const float* need = nullptr;         // [k]
};
constexpr int kStopBins = 16;

// Orders indices by value, largest first, then by index; NaN last.
struct Descending {
  const float* x;
  bool operator()(int32_t a, int32_t b) const {
    const bool a_real = x[a] == x[a], b_real = x[b] == x[b];
    if (!a_real || !b_real) return a_real != b_real ? a_real : a < b;
    return x[a] > x[b] || (x[a] == x[b] && a < b);
  }
};

// geminate.decoding.noise in C++.
uint64_t stream_key(uint64_t seed, uint64_t choice, uint64_t position);
double uniform(uint64_t key, uint64_t token_id);
// Index of the guess among n candidates; ids null: candidate i is token i.
int64_t choose_guess(const float* logits, const int32_t* ids, int64_t n, const DraftRule& rule,
                     int64_t position);

constexpr int64_t kExpertPieces = 4;  // pieces of an expert's tiles

// Bytes of a tile's codes.
inline int64_t tile_bytes(const Matrix& w) {
  return w.groups * (w.format == Format::int4 ? 256 : w.format == Format::int8 ? 512 : 1024);
}

class Program {
 public:
  Program(std::shared_ptr<ThreadPool> pool, const Kernels* kernels, int64_t max_rows,
          const std::vector<int64_t>& widths);
  ~Program();
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  // Appends; Linear over quantized weights brings its own quantization step where none is current.
  void add(Step step);
  void add_experts(int x, int scores, int out, const Matrix& gate_up, const Matrix& down, int top_k,
                   const float* per_expert_scale);
  void add_centroid_head(int x, int out, int ids, const Matrix& centroids, const Matrix& table,
                         const int32_t* order, int64_t cluster, int top_k);
  // Makes the stages and allocates. `external` buffers live in the caller's arrays, set by bind().
  void finish(int hidden, int logits, int candidates, int hidden_in, const std::vector<int>& external);

  void bind(int buffer, float* base, int64_t stride);
  const Buffer& buffer(int b) const { return buffers_[static_cast<size_t>(b)]; }
  void run(const Pass& pass);
  // At most k drafter steps; hidden [width of hidden_in]. Fills ids and probabilities [k], returns how many.
  int64_t draft(Pass pass, int32_t token, const float* hidden, int64_t position, int64_t k,
                const DraftRule& rule, const DraftStop& stop, int32_t* ids, float* probabilities);

  int64_t expert_reads() const { return expert_reads_; }  // experts the last pass read, over all layers
  int64_t max_rows() const { return max_rows_; }
  int64_t min_vocab() const { return min_vocab_; }  // ids must stay below

 private:
  struct Experts;   // scratch of the mixture
  struct Clusters;  // scratch of the centroid head

  void append(Step step, std::vector<int> reads, std::vector<int> writes);
  void quantize_for(int x, int64_t k);
  int threads_for(int64_t rows) const;
  void prepare(const Pass& pass, int threads);
  std::atomic<int64_t>* share(size_t stage, int thread);  // next piece of a thread's share of a stage
  int64_t share_begin(size_t stage, int thread) const;
  void walk(const Pass& pass, int thread);
  void piece(const Work& work, int64_t index, const Pass& pass);
  int64_t pieces_of(const Work& work, const Pass& pass) const;
  void row_step(const Step& s, const Pass& pass, int64_t r);
  int64_t linear_tiles(const Step& s, int64_t rows) const;  // tiles of a piece
  void linear(const Step& s, int64_t index, int64_t rows);
  int attention_heads(const Step& s) const;  // query heads of a piece
  void attention(const Step& s, int64_t index, const Pass& pass);
  void route(const Step& s, int64_t r);
  void group_experts(int64_t rows);
  void expert_linear(const Step& s, int64_t index, bool up);
  void expert_act(int64_t index);
  void expert_sum(const Step& s, int64_t r);
  void pick_clusters(const Step& s, int64_t r);
  void cluster_logits(const Step& s, int64_t index);
  QuantGroup* panel_row(int64_t r, int64_t rows, int64_t groups, int64_t* stride) const;
  float* allocate(int64_t floats);

  std::shared_ptr<ThreadPool> pool_;
  const Kernels* kernels_;
  const int64_t max_rows_;
  std::vector<Buffer> buffers_;
  std::vector<Step> steps_;
  std::vector<std::vector<int>> reads_, writes_;  // resources of each step: buffers, then negative ones
  std::vector<Stage> stages_;
  struct alignas(64) Share {
    std::atomic<int64_t> next{0};
  };
  std::unique_ptr<Share[]> shares_;         // [stages, threads]
  std::unique_ptr<Pieces[]> done_;          // of each stage
  std::vector<std::vector<int64_t>> ends_;  // of each stage in this pass: pieces up to the end of each work
  std::vector<Run> runs_;                   // rows of this pass
  int threads_ = 1;                         // of this pass
  std::vector<void*> blocks_;
  QuantGroup* panels_ = nullptr;
  int64_t panel_groups_ = 0;
  int quantized_ = -1;  // buffer whose quantized form stands in the panels
  bool gathered_ = false;
  int64_t weight_bytes_ = 0, min_vocab_ = INT64_MAX;
  int hidden_ = -1, logits_ = -1, candidates_ = -1, hidden_in_ = -1;
  int64_t expert_reads_ = 0;
  std::unique_ptr<Experts> experts_;
  std::unique_ptr<Clusters> clusters_;
};

}  // namespace geminate
