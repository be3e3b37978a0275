// A compiled plan: steps over an arena of float32 rows, executed by all threads together.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "contract.h"
#include "kernels/multiply.h"
#include "program/draft.h"
#include "program/steps.h"
#include "program/thread_pool.h"

namespace geminate {

struct Buffer {
  int64_t width = 0, stride = 0;
  float* base = nullptr;
  float* row(int64_t r) const { return base + r * stride; }
};

constexpr int kSlotFields = 5;

struct CacheTable {
  // [slots, 5]: addresses of keys and values, rows, addresses of key and value scales (0: float16).
  const uint64_t* slots;
  KvSlot slot(int i) const {
    const uint64_t* at = slots + kSlotFields * i;
    return {reinterpret_cast<void*>(at[0]), reinterpret_cast<void*>(at[1]), static_cast<int64_t>(at[2]),
            reinterpret_cast<float*>(at[3]), reinterpret_cast<float*>(at[4])};
  }
};

struct RopeRows {
  const float* cosine;
  const float* sine;
  int64_t pairs;
};

// Consecutive rows of one sequence at consecutive positions: they share one walk over the keys.
struct Run {
  int64_t first, count;  // among the rows that a step works on
  int64_t all;           // `first` among all rows of the pass
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
  bool largest = false;      // of a row's logits only the largest is wanted; the others may be too small
};

// Parts that hold positions 0 .. positions - 1.
inline int64_t parts_of(int64_t positions) { return (positions + kPart - 1) / kPart; }

constexpr int64_t kExpertPieces = 4;  // pieces of an expert's tiles

// Bytes of a tile's codes.
inline int64_t tile_bytes(const Matrix& w) { return w.groups * info(w.format).cell_bytes(); }

// The row of a pass that a row step works on.
struct RowAt {
  const Pass& pass;
  int64_t rows;    // that the step works on: all of the pass or the head rows
  bool head_rows;  // whether those are the head rows
  int64_t row;     // among those
  int64_t all;     // among all rows of the pass
};

// The piece of a pass that a step of parts works on.
struct PieceAt {
  const Pass& pass;
  int64_t rows;    // as in RowAt
  bool head_rows;  // whether those are the head rows
  int64_t index;
};

// Memory that grows on demand and begins at a cache line; what it held is lost when it grows.
class AlignedFloats {
 public:
  float* reserve(int64_t floats);

 private:
  std::vector<float> floats_;
};

// How an attention step of a pass is cut into pieces: runs x parts x KV heads x groups of their query heads.
struct AttentionCut {
  int64_t parts;   // 1 where each piece walks all of its run's positions
  int64_t groups;  // of `heads` query heads, the last perhaps fewer
  int64_t heads;
};

class Program {
 public:
  Program(std::shared_ptr<ThreadPool> pool, const Kernels* kernels, int64_t max_rows,
          const std::vector<int64_t>& widths);
  ~Program();
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  // Appends a step. A linear step over quantized weights brings its own quantization step where none is
  // current.
  void add(Operation op);
  void add(const EmbedStep& s);
  void add(const LookupStep& s);
  void add(const LinearStep& s);
  void add(const AttentionStep& s);
  void add(const SoftcapStep& s);
  void add(const GatherStep& s);
  void add_experts(int x, int scores, int out, const Matrix& gate_up, const Matrix& down, int top_k,
                   const float* expert_scale);
  void add_centroid_head(int x, int out, int ids, const Matrix& centroids, const Matrix& table,
                         const int32_t* order, int64_t size, int top_k);
  // Makes the stages and allocates. `external` buffers live in the caller's arrays, set by bind().
  void finish(int hidden, int logits, int candidates, int hidden_in, const std::vector<int>& external);

  void bind(int buffer, float* base, int64_t stride);
  const Buffer& buffer(int b) const { return buffers_[static_cast<size_t>(b)]; }
  void run(const Pass& pass);
  // At most k drafter steps; hidden [width of hidden_in]. Fills ids and probabilities [k], returns how many.
  int64_t draft(Pass pass, int32_t token, const float* hidden, int64_t position, int64_t k,
                const DraftRule& rule, const DraftStop& stop, int32_t* ids, float* probabilities);

  int64_t expert_reads() const { return expert_reads_; }  // experts the last pass read, over all layers
  bool gathers() const { return gathered_; }              // else every row is a head row
  bool has_head_rows(int buffer) const;  // and no others: it is written behind the gather alone
  int64_t max_rows() const { return max_rows_; }
  int64_t min_vocab() const { return min_vocab_; }  // ids must stay below; `draft` checks those it feeds back

 private:
  struct Experts;   // scratch of the mixture
  struct Clusters;  // scratch of the centroid head

  void append(Operation op);
  void quantize_for(int x, const Matrix& w);  // unless w takes floats
  int threads_for(const Pass& pass) const;
  void prepare(const Pass& pass, int threads);
  std::atomic<int64_t>* share(size_t stage, int thread);  // next piece of a thread's share of a stage
  int64_t share_begin(size_t stage, int thread) const;
  void walk(const Pass& pass, int thread);
  void run_piece(const Work& work, int64_t index, const Pass& pass);

  // What a row step does with one row.
  void run_row(const EmbedStep& s, const RowAt& at);
  void run_row(const LookupStep& s, const RowAt& at);
  void run_row(const ConcatStep& s, const RowAt& at);
  void run_row(const NormStep& s, const RowAt& at);
  void run_row(const QuantizeStep& s, const RowAt& at);
  void run_row(const AddStep& s, const RowAt& at);
  void run_row(const GeluStep& s, const RowAt& at);
  void run_row(const RopeStep& s, const RowAt& at);
  void run_row(const KvStoreStep& s, const RowAt& at);
  void run_row(const JoinPartsStep& s, const RowAt& at);
  void run_row(const SoftcapStep& s, const RowAt& at);
  void run_row(const TapStep& s, const RowAt& at);
  void run_row(const RouteStep& s, const RowAt& at);
  void run_row(const ExpertSumStep& s, const RowAt& at);
  void run_row(const PickClustersStep& s, const RowAt& at);

  // How many pieces another step has, and what it does with one.
  int64_t count_pieces(const Work& work, const Pass& pass) const;
  int64_t pieces(const LinearStep& s, int64_t rows) const;
  int64_t pieces(const AttentionStep& s, const std::vector<Run>& runs) const;
  int64_t pieces(const GatherStep& s, int64_t rows) const;
  int64_t pieces(const GroupExpertsStep& s, int64_t rows) const;
  int64_t pieces(const ExpertUpStep& s, int64_t rows) const;
  int64_t pieces(const ExpertActStep& s, int64_t rows) const;
  int64_t pieces(const ExpertDownStep& s, int64_t rows) const;
  int64_t pieces(const ClusterLogitsStep& s, int64_t rows) const;
  void run_part(const LinearStep& s, const PieceAt& at);
  void run_part(const AttentionStep& s, const PieceAt& at);
  void run_part(const GatherStep& s, const PieceAt& at);
  void run_part(const GroupExpertsStep& s, const PieceAt& at);
  void run_part(const ExpertUpStep& s, const PieceAt& at);
  void run_part(const ExpertActStep& s, const PieceAt& at);
  void run_part(const ExpertDownStep& s, const PieceAt& at);
  void run_part(const ClusterLogitsStep& s, const PieceAt& at);
  int64_t linear_tiles(const LinearStep& s, int64_t rows) const;  // tiles of a piece
  const std::vector<Run>& runs(bool head_rows) const { return head_rows ? head_runs_ : runs_; }
  AttentionCut attention_cut(const AttentionStep& s, const std::vector<Run>& runs) const;
  void reserve_records(const std::vector<Run>& runs);
  float* part_record(const AttentionStep& s, int64_t row, int64_t parts, int64_t part, int64_t head);
  // A share of an expert's tiles times its rows; activations_of(a, rows): assignments a .. a + rows - 1.
  template <class Source>
  void multiply_expert(const Matrix& w, int64_t index, float* out, int64_t out_stride, Source activations_of);
  QuantGroup* panel_row(int64_t r, int64_t rows, int64_t groups, int64_t* stride) const;
  CodeLine* code_row(int64_t r, int64_t rows, int64_t groups, int64_t halves, int64_t* stride) const;
  // Rows r .. r + kPanelRows - 1 of buffer x as w takes them, r a multiple of kPanelRows.
  Activations activations(int x, const Matrix& w, int64_t r, int64_t rows) const;
  float* allocate(int64_t floats);

  std::shared_ptr<ThreadPool> pool_;
  const Kernels* kernels_;
  const int64_t max_rows_;
  std::vector<Buffer> buffers_;
  std::vector<Step> steps_;
  std::vector<Stage> stages_;
  struct alignas(64) Share {
    std::atomic<int64_t> next{0};
  };
  std::unique_ptr<Share[]> shares_;         // [stages, threads]
  std::unique_ptr<Pieces[]> done_;          // of each stage
  std::vector<std::vector<int64_t>> ends_;  // of each stage in this pass: pieces up to the end of each work
  std::vector<Run> runs_, head_runs_;       // all rows of this pass, and its head rows
  int threads_ = 1;                         // of this pass
  std::vector<float> largest_;  // logit of each head row of this pass so far, where that is all it wants
  std::atomic<bool> starved_{false};  // whether a piece of this pass got no memory
  int64_t positions_ = 0;             // beyond the last row of this pass
  int64_t widest_records_ = 0;        // floats of a row's records of a part
  AlignedFloats record_memory_;
  float* records_ = nullptr;  // of parts that are walked apart: [rows, parts, heads, record]
  std::vector<void*> blocks_;
  void* panels_ = nullptr;   // of QuantGroup or CodeLine
  int64_t panel_lines_ = 0;  // of 64 bytes, at most, for each row
  QuantizeStep quantized_{
      .x = -1, .seen = Seen::floats, .scale = 0.0f};  // what stands in the panels; x -1: nothing
  bool gathered_ = false;
  int64_t weight_bytes_ = 0, min_vocab_ = INT64_MAX;
  int64_t position_bytes_ = 0;  // of keys and values that layers without a window read
  int hidden_ = -1, logits_ = -1, candidates_ = -1, hidden_in_ = -1;
  int64_t expert_reads_ = 0;
  std::unique_ptr<Experts> experts_;
  std::unique_ptr<Clusters> clusters_;
};

}  // namespace geminate
