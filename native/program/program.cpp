#include "program/program.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "program/scratch.h"

namespace geminate {
namespace {

// Resources other than buffers.
constexpr int kPanels = -1, kExperts = -2, kClusters = -3, kSlots = -4;  // slot i: kSlots - i

}  // namespace

Program::Program(std::shared_ptr<ThreadPool> pool, const Kernels* kernels, int64_t max_rows,
                 const std::vector<int64_t>& widths)
    : pool_(std::move(pool)), kernels_(kernels), max_rows_(max_rows) {
  for (const int64_t width : widths) buffers_.push_back({width, (width + 15) / 16 * 16, nullptr});
}

Program::~Program() {
  for (void* block : blocks_) std::free(block);
}

float* Program::allocate(int64_t floats) {
  const size_t bytes = (static_cast<size_t>(floats) * sizeof(float) + 4095) / 4096 * 4096;
  void* block = std::aligned_alloc(4096, bytes);
  if (block == nullptr) throw std::bad_alloc();
  blocks_.push_back(block);
  return static_cast<float*>(block);
}

void Program::append(Step step, std::vector<int> reads, std::vector<int> writes) {
  step.head_rows = gathered_;
  if (quantized_ >= 0 && std::find(writes.begin(), writes.end(), quantized_) != writes.end()) quantized_ = -1;
  steps_.push_back(step);
  reads_.push_back(std::move(reads));
  writes_.push_back(std::move(writes));
}

void Program::quantize_for(int x, int64_t k) {
  panel_groups_ = std::max(panel_groups_, (k + kGroup - 1) / kGroup);
  if (quantized_ == x) return;
  Step s{};
  s.op = Op::quantize;
  s.split = Split::rows;
  s.x = x;
  append(s, {x}, {kPanels});
  quantized_ = x;
}

void Program::add(Step step) {
  std::vector<int> reads, writes;
  step.split = Split::rows;
  if (step.x >= 0) reads.push_back(step.x);
  if (step.y >= 0) reads.push_back(step.y);
  if (step.out >= 0) writes.push_back(step.out);
  switch (step.op) {
    case Op::embed:
      min_vocab_ = std::min(min_vocab_, step.w.n);
      break;
    case Op::lookup:
      min_vocab_ = std::min(min_vocab_, step.table.rows);
      break;
    case Op::linear:
      step.split = Split::parts;
      weight_bytes_ += step.w.tiles * tile_bytes(step.w);
      if (step.w.format != Format::bf16) {
        quantize_for(step.x, step.w.k);
        reads = {kPanels};
      }
      break;
    case Op::rope:
      writes = {step.x};
      break;
    case Op::softcap:
      if (!steps_.empty() && steps_.back().op == Op::linear && steps_.back().out == step.x) {
        steps_.back().cap = step.scale;  // while the tile is at hand: no second sweep over the logits
        return;
      }
      writes = {step.x};
      break;
    case Op::kv_store:
      writes = {kSlots - step.index};
      break;
    case Op::attention:
      step.split = Split::parts;
      reads.push_back(kSlots - step.index);
      break;
    case Op::gather:
      gathered_ = true;
      quantized_ = -1;  // its panels hold other rows
      break;
    default:
      break;
  }
  append(step, std::move(reads), std::move(writes));
}

void Program::add_experts(int x, int scores, int out, const Matrix& gate_up, const Matrix& down, int top_k,
                          const float* per_expert_scale) {
  Step s{};
  s.x = x;
  s.y = scores;
  s.out = out;
  s.top_k = top_k;
  s.vector = per_expert_scale;
  if (!experts_) experts_ = std::make_unique<Experts>();
  experts_->reserve(max_rows_, top_k, gate_up, down);
  const bool quantized = gate_up.format != Format::bf16;
  if (quantized) quantize_for(x, gate_up.k);
  weight_bytes_ += (gate_up.tiles * tile_bytes(gate_up) + down.tiles * tile_bytes(down)) * top_k;
  const auto push = [&](Op op, Split split, const Matrix& w, std::vector<int> reads,
                        std::vector<int> writes) {
    s.op = op;
    s.split = split;
    s.w = w;
    append(s, std::move(reads), std::move(writes));
  };
  push(Op::route, Split::rows, gate_up, {scores}, {kExperts});
  push(Op::group_experts, Split::serial, gate_up, {kExperts}, {kExperts});
  push(Op::expert_up, Split::parts, gate_up, {kExperts, quantized ? kPanels : x}, {kExperts});
  push(Op::expert_act, Split::parts, down, {kExperts}, {kExperts});
  push(Op::expert_down, Split::parts, down, {kExperts}, {kExperts});
  push(Op::expert_sum, Split::rows, down, {kExperts}, {out});
}

void Program::add_centroid_head(int x, int out, int ids, const Matrix& centroids, const Matrix& table,
                                const int32_t* order, int64_t cluster, int top_k) {
  if (!clusters_) clusters_ = std::make_unique<Clusters>();
  clusters_->reserve(max_rows_, top_k);
  buffers_.push_back({centroids.n, (centroids.n + 15) / 16 * 16, nullptr});
  Step s{};
  s.op = Op::linear;
  s.x = x;
  s.out = static_cast<int>(buffers_.size()) - 1;
  s.w = centroids;
  add(s);
  const int scores = s.out;
  s.op = Op::pick_clusters;
  s.split = Split::rows;
  s.x = scores;
  s.out = ids;
  s.top_k = top_k;
  s.order = order;
  s.cluster = cluster;
  append(s, {scores}, {ids, kClusters});
  const bool quantized = table.format != Format::bf16;
  if (quantized) quantize_for(x, table.k);
  s.op = Op::cluster_logits;
  s.split = Split::parts;
  s.x = x;
  s.out = out;
  s.w = table;
  weight_bytes_ += (cluster + 15) / 16 * top_k * tile_bytes(table);
  append(s, {quantized ? kPanels : x, kClusters}, {out});
}

void Program::finish(int hidden, int logits, int candidates, int hidden_in,
                     const std::vector<int>& external) {
  hidden_ = hidden;
  logits_ = logits;
  candidates_ = candidates;
  hidden_in_ = hidden_in;
  for (size_t b = 0; b < buffers_.size(); ++b) {
    if (std::find(external.begin(), external.end(), static_cast<int>(b)) == external.end()) {
      buffers_[b].base = allocate(max_rows_ * buffers_[b].stride);
    }
  }
  static_assert(sizeof(QuantGroup) == 16 * sizeof(float));
  const int64_t panels = (max_rows_ + kPanelRows - 1) / kPanelRows;
  panels_ = reinterpret_cast<QuantGroup*>(allocate(panels * kPanelRows * panel_groups_ * 16 + 16));
  stages_ = make_stages(steps_, reads_, writes_);
  done_ = std::make_unique<Pieces[]>(stages_.size());
  shares_ = std::make_unique<Share[]>(stages_.size() * static_cast<size_t>(pool_->size()));
}

void Program::bind(int buffer, float* base, int64_t stride) {
  buffers_[static_cast<size_t>(buffer)].base = base;
  buffers_[static_cast<size_t>(buffer)].stride = stride;
}

}  // namespace geminate
