// The operations of a compiled plan, a struct each, and the stages they run in.
// x, a, b, out and the like are numbers of buffers.
#pragma once

#include <cstdint>
#include <type_traits>
#include <variant>
#include <vector>

#include "contract.h"

namespace geminate {

// What a piece of a step is, the unit that threads take.
enum class Split {
  rows,   // a row; consecutive row steps make one piece of each row
  parts,  // tiles, heads, experts
  serial  // all of it
};

struct EmbedStep {
  static constexpr Split split = Split::rows;
  int out;
  Matrix table;
  float scale;
};
struct LookupStep {
  static constexpr Split split = Split::rows;
  int out;
  RowTable table;
  float scale;
  int64_t column;  // of the table to begin with
};
struct ConcatStep {
  static constexpr Split split = Split::rows;
  int a, b, out;
};
struct NormStep {
  static constexpr Split split = Split::rows;
  int x, out;
  const float* weight;  // [width / groups] or null
  float eps;
  int groups;
};
// Puts the rows of x into the panels.
struct QuantizeStep {
  static constexpr Split split = Split::rows;
  int x;
  Seen seen;    // groups or rows
  float scale;  // of rows; 0: each row's own, 16 bits
  bool operator==(const QuantizeStep&) const = default;
};
struct LinearStep {
  static constexpr Split split = Split::parts;
  int x, out;
  Matrix w;
  float scale;
  float cap = 0.0f;  // soft cap on the outputs, 0 for none
};
struct AddStep {
  static constexpr Split split = Split::rows;
  int a, b, out;
  float scale;
};
struct GeluStep {
  static constexpr Split split = Split::rows;
  int gate, up, out;
  int64_t offset;  // column of `up` to begin with
};
struct RopeStep {
  static constexpr Split split = Split::rows;
  int x;  // in place
  int groups, table;
};
struct KvStoreStep {
  static constexpr Split split = Split::rows;
  int keys, values;
  int slot, kv_heads, head_dim;
};
struct AttentionStep {
  static constexpr Split split = Split::parts;
  int q, out;
  int slot, heads, kv_heads, head_dim;
  int64_t window;  // 0: all positions
  bool include_self;
};
// Joins what an attention step found in parts walked apart; nothing to do where it walked them in turn.
struct JoinPartsStep {
  static constexpr Split split = Split::rows;
  AttentionStep attention;
};
struct SoftcapStep {
  static constexpr Split split = Split::rows;
  int x;  // in place
  float cap;
};
// Moves the head rows of x to its front; steps behind it work on those.
struct GatherStep {
  static constexpr Split split = Split::serial;
  int x;  // in place
};
// Copies x into the caller's array.
struct TapStep {
  static constexpr Split split = Split::rows;
  int x, index;
};

// A mixture of experts is these six, in this order; what they hand on stands in Program::Experts.
struct RouteStep {
  static constexpr Split split = Split::rows;
  int scores;
  const float* expert_scale;  // [experts]
};
struct GroupExpertsStep {
  static constexpr Split split = Split::serial;
};
struct ExpertUpStep {
  static constexpr Split split = Split::parts;
  int x;
  Matrix w;
};
struct ExpertActStep {
  static constexpr Split split = Split::parts;
  int top_k;
};
struct ExpertDownStep {
  static constexpr Split split = Split::parts;
  Matrix w;
};
struct ExpertSumStep {
  static constexpr Split split = Split::rows;
  int out;
};

// The centroid head, behind the linear step that scores the clusters.
struct PickClustersStep {
  static constexpr Split split = Split::rows;
  int scores, ids;
  const int32_t* order;  // [clusters, size] candidate ids
  int64_t size;          // candidates of a cluster
  int top_k;
};
struct ClusterLogitsStep {
  static constexpr Split split = Split::parts;
  int x, out;
  Matrix table;  // a stack with one matrix per cluster
  int64_t size;
  int top_k;
};

using Operation = std::variant<EmbedStep, LookupStep, ConcatStep, NormStep, QuantizeStep, LinearStep, AddStep,
                               GeluStep, RopeStep, KvStoreStep, AttentionStep, JoinPartsStep, SoftcapStep,
                               GatherStep, TapStep, RouteStep, GroupExpertsStep, ExpertUpStep, ExpertActStep,
                               ExpertDownStep, ExpertSumStep, PickClustersStep, ClusterLogitsStep>;

template <class S>
constexpr bool kByRows = std::remove_cvref_t<S>::split == Split::rows;

// What a step reads and writes: numbers of buffers, and of resources other than buffers, which are negative.
struct Uses {
  std::vector<int> reads, writes;
};

struct Step {
  Operation op;
  Split split;
  bool head_rows;  // works on the gathered rows
  Uses uses;
};

// Pieces that may run in any order: all pieces of one part step, or one piece for each row of some row steps.
struct Work {
  Split split;
  bool head_rows;
  std::vector<size_t> steps;  // one unless the split is rows; in program order
};

// Works without a conflict among them; every piece of a stage is finished before the next stage begins.
using Stage = std::vector<Work>;

// Groups steps into as few stages as their order allows.
std::vector<Stage> make_stages(const std::vector<Step>& steps);

}  // namespace geminate
