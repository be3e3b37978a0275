// The mixture of experts and the centroid head: operations that group rows or pick parts of a table.
#include <algorithm>
#include <cstring>
#include <numeric>

#include "program/largest.h"
#include "program/program.h"
#include "program/scratch.h"

namespace geminate {

void Program::Experts::reserve(int64_t rows, int64_t k, const Matrix& up, const Matrix& lower) {
  experts = std::max(experts, up.stack);
  top_k = k;
  inner = lower.k;
  hidden = lower.n;
  const auto size = [](int64_t n) { return static_cast<size_t>(n); };
  probability.resize(size(rows * experts));
  chosen.resize(size(rows * k));
  weight.resize(size(rows * k));
  place.resize(size(rows * k));
  start.resize(size(experts + 1));
  row.resize(size(rows * k));
  expert.resize(size(rows * k));
  gate_up.resize(size(rows * k * 2 * inner));
  down.resize(size(rows * k * hidden));
}

void Program::Clusters::reserve(int64_t rows, int64_t top_k) {
  chosen.resize(static_cast<size_t>(rows * top_k));
}

void Program::run_row(const RouteStep& s, const RowAt& at) {
  Experts& e = *experts_;
  const int64_t r = at.row;
  thread_local std::vector<int32_t> scratch;
  float* p = e.probability.data() + r * e.experts;
  kernels_->softmax(buffer(s.scores).row(r), p, e.experts);
  int32_t* chosen = e.chosen.data() + r * e.top_k;
  float* weight = e.weight.data() + r * e.top_k;
  largest(p, e.experts, e.top_k, chosen, scratch);
  float sum = 0.0f;
  for (int64_t j = 0; j < e.top_k; ++j) sum += p[chosen[j]];
  std::sort(chosen, chosen + e.top_k);  // experts add up in ascending order
  for (int64_t j = 0; j < e.top_k; ++j) weight[j] = p[chosen[j]] / sum * s.expert_scale[chosen[j]];
}

int64_t Program::pieces(const GroupExpertsStep&, int64_t) const { return 1; }

void Program::run_part(const GroupExpertsStep&, const PieceAt& at) {
  Experts& e = *experts_;
  std::fill(e.start.begin(), e.start.end(), 0);
  const int64_t assignments = at.rows * e.top_k;
  for (int64_t a = 0; a < assignments; ++a)
    ++e.start[static_cast<size_t>(e.chosen[static_cast<size_t>(a)] + 1)];
  expert_reads_ += std::count_if(e.start.begin() + 1, e.start.end(), [](int32_t n) { return n > 0; });
  std::partial_sum(e.start.begin(), e.start.end(), e.start.begin());
  std::vector<int32_t> next(e.start.begin(), e.start.end());
  for (int64_t a = 0; a < assignments; ++a) {
    const size_t from = static_cast<size_t>(a);
    const int32_t expert = e.chosen[from], to = next[static_cast<size_t>(expert)]++;
    e.place[from] = to;
    e.row[static_cast<size_t>(to)] = static_cast<int32_t>(a / e.top_k);
    e.expert[static_cast<size_t>(to)] = expert;
  }
}

template <class Source>
void Program::multiply_expert(const Matrix& w, int64_t index, float* out, int64_t out_stride,
                              Source activations_of) {
  const Experts& e = *experts_;
  const int64_t expert = index / kExpertPieces, share = index % kExpertPieces;
  const int64_t first = e.start[static_cast<size_t>(expert)], last = e.start[static_cast<size_t>(expert + 1)];
  const int64_t begin = w.tiles * share / kExpertPieces, end = w.tiles * (share + 1) / kExpertPieces;
  if (begin == end) return;
  const TileRange range{expert, begin, end, w.n - 16 * begin};
  for (int64_t a = first; a < last; a += kPanelRows) {
    const int64_t rows = std::min<int64_t>(kPanelRows, last - a);
    float* to = out + a * out_stride + 16 * begin;
    multiply(*kernels_, w, range, activations_of(a, rows), rows, to, out_stride, 1.0f);
  }
}

int64_t Program::pieces(const ExpertUpStep& s, int64_t) const { return s.w.stack * kExpertPieces; }

// From the rows of the pass into gate_up.
void Program::run_part(const ExpertUpStep& s, const PieceAt& at) {
  Experts& e = *experts_;
  thread_local std::vector<QuantGroup> panel;
  thread_local std::vector<float> wide;
  const int64_t groups = s.w.groups, k = s.w.k;
  const auto row_of = [&](int64_t assignment) { return e.row[static_cast<size_t>(assignment)]; };
  multiply_expert(s.w, at.index, e.gate_up.data(), 2 * e.inner, [&](int64_t a, int64_t rows) -> Activations {
    if (info(s.w.format).activations == Seen::floats) {
      wide.resize(static_cast<size_t>(rows * k));
      for (int64_t i = 0; i < rows; ++i) {
        std::memcpy(wide.data() + i * k, buffer(s.x).row(row_of(a + i)),
                    static_cast<size_t>(k) * sizeof(float));
      }
      return {.x = wide.data(), .x_stride = k};
    }
    panel.resize(static_cast<size_t>(groups * rows));
    for (int64_t i = 0; i < rows; ++i) {
      int64_t stride;  // the pass's rows are quantized already, once for all experts
      const QuantGroup* from = panel_row(row_of(a + i), at.rows, groups, &stride);
      for (int64_t g = 0; g < groups; ++g) panel[static_cast<size_t>(g * rows + i)] = from[g * stride];
    }
    return {.panel = panel.data()};
  });
}

int64_t Program::pieces(const ExpertDownStep& s, int64_t) const { return s.w.stack * kExpertPieces; }

// From the first half of gate_up, activated, into down.
void Program::run_part(const ExpertDownStep& s, const PieceAt& at) {
  Experts& e = *experts_;
  thread_local std::vector<QuantGroup> panel;
  const int64_t stride = 2 * e.inner;
  multiply_expert(s.w, at.index, e.down.data(), e.hidden, [&](int64_t a, int64_t rows) -> Activations {
    const float* x = e.gate_up.data() + a * stride;
    if (info(s.w.format).activations == Seen::floats) return {.x = x, .x_stride = stride};
    panel.resize(static_cast<size_t>(s.w.groups * rows));
    for (int64_t i = 0; i < rows; ++i) kernels_->quantize(x + i * stride, s.w.k, panel.data() + i, rows);
    return {.panel = panel.data()};
  });
}

int64_t Program::pieces(const ExpertActStep& s, int64_t rows) const { return rows * s.top_k; }

void Program::run_part(const ExpertActStep&, const PieceAt& at) {
  Experts& e = *experts_;
  float* gate = e.gate_up.data() + at.index * 2 * e.inner;
  kernels_->gelu_mul(gate, gate + e.inner, gate, e.inner);
}

void Program::run_row(const ExpertSumStep& s, const RowAt& at) {
  const Experts& e = *experts_;
  float* out = buffer(s.out).row(at.row);
  std::memset(out, 0, static_cast<size_t>(e.hidden) * sizeof(float));
  for (int64_t j = 0; j < e.top_k; ++j) {
    const size_t from = static_cast<size_t>(at.row * e.top_k + j);
    kernels_->add_weighted(e.down.data() + e.place[from] * e.hidden, e.weight[from], out, e.hidden);
  }
}

void Program::run_row(const PickClustersStep& s, const RowAt& at) {
  thread_local std::vector<int32_t> scratch;
  const Buffer& scores = buffer(s.scores);
  int32_t* chosen = clusters_->chosen.data() + at.row * s.top_k;
  largest(scores.row(at.row), scores.width, s.top_k, chosen, scratch);
  float* ids = buffer(s.ids).row(at.row);
  for (int64_t j = 0; j < s.top_k; ++j) {
    std::memcpy(ids + j * s.size, s.order + chosen[j] * s.size,
                static_cast<size_t>(s.size) * sizeof(int32_t));
  }
}

int64_t Program::pieces(const ClusterLogitsStep& s, int64_t rows) const { return rows * s.top_k; }

// The table is a stack with one matrix per cluster, so a cluster's candidates stand in whole tiles.
void Program::run_part(const ClusterLogitsStep& s, const PieceAt& at) {
  const int64_t r = at.index / s.top_k, j = at.index % s.top_k;  // max_rows is 1, so r is 0
  const TileRange range{clusters_->chosen[static_cast<size_t>(at.index)], 0, s.table.tiles, s.size};
  const Activations x = activations(s.x, s.table, r, at.rows);
  float* to = buffer(s.out).row(r) + j * s.size;
  multiply(*kernels_, s.table, range, x, 1, to, s.size, 1.0f);
}

}  // namespace geminate
