// The mixture of experts and the centroid head: operations that group rows or pick parts of a table.
#include <algorithm>
#include <cstring>
#include <numeric>

#include "program/program.h"
#include "program/scratch.h"

namespace geminate {
namespace {

// Indices of the k largest, values descending, ties by the lower index; NaN counts as the least.
void largest(const float* x, int64_t n, int64_t k, int32_t* out, std::vector<int32_t>& scratch) {
  scratch.resize(static_cast<size_t>(n));
  std::iota(scratch.begin(), scratch.end(), 0);
  std::partial_sort(scratch.begin(), scratch.begin() + k, scratch.end(), Descending{x});
  std::copy(scratch.begin(), scratch.begin() + k, out);
}

}  // namespace

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

void Program::route(const Step& s, int64_t r) {
  Experts& e = *experts_;
  thread_local std::vector<int32_t> scratch;
  float* p = e.probability.data() + r * e.experts;
  kernels_->softmax(buffer(s.y).row(r), p, e.experts);
  int32_t* chosen = e.chosen.data() + r * e.top_k;
  float* weight = e.weight.data() + r * e.top_k;
  largest(p, e.experts, e.top_k, chosen, scratch);
  float sum = 0.0f;
  for (int64_t j = 0; j < e.top_k; ++j) sum += p[chosen[j]];
  std::sort(chosen, chosen + e.top_k);  // experts add up in ascending order
  for (int64_t j = 0; j < e.top_k; ++j) weight[j] = p[chosen[j]] / sum * s.vector[chosen[j]];
}

void Program::group_experts(int64_t rows) {
  Experts& e = *experts_;
  std::fill(e.start.begin(), e.start.end(), 0);
  e.assignments = rows * e.top_k;
  for (int64_t a = 0; a < e.assignments; ++a)
    ++e.start[static_cast<size_t>(e.chosen[static_cast<size_t>(a)] + 1)];
  expert_reads_ += std::count_if(e.start.begin() + 1, e.start.end(), [](int32_t n) { return n > 0; });
  std::partial_sum(e.start.begin(), e.start.end(), e.start.begin());
  std::vector<int32_t> next(e.start.begin(), e.start.end());
  for (int64_t a = 0; a < e.assignments; ++a) {
    const size_t from = static_cast<size_t>(a);
    const int32_t expert = e.chosen[from], to = next[static_cast<size_t>(expert)]++;
    e.place[from] = to;
    e.row[static_cast<size_t>(to)] = static_cast<int32_t>(a / e.top_k);
    e.expert[static_cast<size_t>(to)] = expert;
  }
}

// One expert's rows, eight at a time, times a share of its tiles. `up`: from the pass's rows into gate_up;
// else from gate_up's first half (activated) into down.
void Program::expert_linear(const Step& s, int64_t index, bool up) {
  Experts& e = *experts_;
  thread_local std::vector<QuantGroup> panel;
  thread_local std::vector<float> wide;
  const int64_t groups = s.w.groups, k = s.w.k;
  const int64_t out_stride = up ? 2 * e.inner : e.hidden;
  float* out = up ? e.gate_up.data() : e.down.data();
  const int64_t expert = index / kExpertPieces, share = index % kExpertPieces;
  const int64_t first = e.start[static_cast<size_t>(expert)], last = e.start[static_cast<size_t>(expert + 1)];
  const int64_t begin = s.w.tiles * share / kExpertPieces, end = s.w.tiles * (share + 1) / kExpertPieces;
  if (begin == end) return;
  const TileRange range{expert, begin, end, s.w.n - 16 * begin};
  for (int64_t a = first; a < last; a += kPanelRows) {
    const int64_t rows = std::min<int64_t>(kPanelRows, last - a);
    float* to = out + a * out_stride + 16 * begin;
    const auto source = [&](int64_t i) -> const float* {
      return up ? buffer(s.x).row(e.row[static_cast<size_t>(a + i)])
                : e.gate_up.data() + (a + i) * 2 * e.inner;
    };
    if (s.w.format == Format::bf16) {
      wide.resize(static_cast<size_t>(rows * k));
      for (int64_t i = 0; i < rows; ++i) {
        std::memcpy(wide.data() + i * k, source(i), static_cast<size_t>(k) * sizeof(float));
      }
      kernels_->linear_bf16(s.w, range, wide.data(), k, rows, to, out_stride, 1.0f);
      continue;
    }
    panel.resize(static_cast<size_t>(groups * rows));
    for (int64_t i = 0; i < rows; ++i) {
      if (!up) {
        kernels_->quantize(source(i), k, panel.data() + i, rows);
        continue;
      }
      int64_t stride;  // the pass's rows are quantized already, once for all experts
      const QuantGroup* from =
          panel_row(e.row[static_cast<size_t>(a + i)], e.assignments / e.top_k, groups, &stride);
      for (int64_t g = 0; g < groups; ++g) panel[static_cast<size_t>(g * rows + i)] = from[g * stride];
    }
    kernels_->linear_quantized(s.w, range, panel.data(), rows, to, out_stride, 1.0f);
  }
}

void Program::expert_act(int64_t index) {
  Experts& e = *experts_;
  float* gate = e.gate_up.data() + index * 2 * e.inner;
  kernels_->gelu_mul(gate, gate + e.inner, gate, e.inner);
}

void Program::expert_sum(const Step& s, int64_t r) {
  const Experts& e = *experts_;
  float* out = buffer(s.out).row(r);
  std::memset(out, 0, static_cast<size_t>(e.hidden) * sizeof(float));
  for (int64_t j = 0; j < e.top_k; ++j) {
    const size_t at = static_cast<size_t>(r * e.top_k + j);
    kernels_->add_weighted(e.down.data() + e.place[at] * e.hidden, e.weight[at], out, e.hidden);
  }
}

void Program::pick_clusters(const Step& s, int64_t r) {
  thread_local std::vector<int32_t> scratch;
  int32_t* chosen = clusters_->chosen.data() + r * s.top_k;
  largest(buffer(s.x).row(r), buffer(s.x).width, s.top_k, chosen, scratch);
  float* ids = buffer(s.out).row(r);
  for (int64_t j = 0; j < s.top_k; ++j) {
    std::memcpy(ids + j * s.cluster, s.order + chosen[j] * s.cluster,
                static_cast<size_t>(s.cluster) * sizeof(int32_t));
  }
}

// The table is a stack with one matrix per cluster, so a cluster's candidates stand in whole tiles.
void Program::cluster_logits(const Step& s, int64_t index) {
  const int64_t r = index / s.top_k, j = index % s.top_k;
  const TileRange range{clusters_->chosen[static_cast<size_t>(index)], 0, s.w.tiles, s.cluster};
  float* to = buffer(s.out).row(r) + j * s.cluster;
  if (s.w.format == Format::bf16) {
    kernels_->linear_bf16(s.w, range, buffer(s.x).row(r), buffer(s.x).stride, 1, to, s.cluster, 1.0f);
  } else {
    kernels_->linear_quantized(s.w, range, panels_, 1, to, s.cluster, 1.0f);  // max_rows is 1
  }
}

}  // namespace geminate
