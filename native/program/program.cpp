#include "program/program.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "program/scratch.h"

namespace geminate {
namespace {

constexpr std::align_val_t kPage{4096};

// Resources other than buffers.
constexpr int kPanels = -1, kExperts = -2, kClusters = -3, kRecords = -4, kSlots = -5;  // slot i: kSlots - i

// What a product with w reads its activations from.
int activations_of(int x, const Matrix& w) {
  return info(w.format).activations == Seen::floats ? x : kPanels;
}

Uses uses_of(const EmbedStep& s) { return {{}, {s.out}}; }
Uses uses_of(const LookupStep& s) { return {{}, {s.out}}; }
Uses uses_of(const ConcatStep& s) { return {{s.a, s.b}, {s.out}}; }
Uses uses_of(const NormStep& s) { return {{s.x}, {s.out}}; }
Uses uses_of(const QuantizeStep& s) { return {{s.x}, {kPanels}}; }
Uses uses_of(const LinearStep& s) { return {{activations_of(s.x, s.w)}, {s.out}}; }
Uses uses_of(const AddStep& s) { return {{s.a, s.b}, {s.out}}; }
Uses uses_of(const GeluStep& s) { return {{s.gate, s.up}, {s.out}}; }
Uses uses_of(const RopeStep& s) { return {{s.x}, {s.x}}; }
Uses uses_of(const KvStoreStep& s) { return {{s.keys, s.values}, {kSlots - s.slot}}; }
Uses uses_of(const AttentionStep& s) { return {{s.q, kSlots - s.slot}, {s.out, kRecords}}; }
Uses uses_of(const JoinPartsStep& s) { return {{kRecords, kSlots - s.attention.slot}, {s.attention.out}}; }
Uses uses_of(const SoftcapStep& s) { return {{s.x}, {s.x}}; }
Uses uses_of(const GatherStep& s) { return {{s.x}, {s.x}}; }
Uses uses_of(const TapStep& s) { return {{s.x}, {}}; }
Uses uses_of(const RouteStep& s) { return {{s.scores}, {kExperts}}; }
Uses uses_of(const GroupExpertsStep&) { return {{kExperts}, {kExperts}}; }
Uses uses_of(const ExpertUpStep& s) { return {{kExperts, activations_of(s.x, s.w)}, {kExperts}}; }
Uses uses_of(const ExpertActStep&) { return {{kExperts}, {kExperts}}; }
Uses uses_of(const ExpertDownStep&) { return {{kExperts}, {kExperts}}; }
Uses uses_of(const ExpertSumStep& s) { return {{kExperts}, {s.out}}; }
Uses uses_of(const PickClustersStep& s) { return {{s.scores}, {s.ids, kClusters}}; }
Uses uses_of(const ClusterLogitsStep& s) { return {{activations_of(s.x, s.table), kClusters}, {s.out}}; }

}  // namespace

Program::Program(std::shared_ptr<ThreadPool> pool, const Kernels* kernels, int64_t max_rows,
                 const std::vector<int64_t>& widths)
    : pool_(std::move(pool)), kernels_(kernels), max_rows_(max_rows) {
  for (const int64_t width : widths) buffers_.push_back({width, (width + 15) / 16 * 16, nullptr});
}

Program::~Program() {
  for (void* block : blocks_) ::operator delete(block, kPage);
}

float* Program::allocate(int64_t floats) {
  const size_t bytes = (static_cast<size_t>(floats) * sizeof(float) + 4095) / 4096 * 4096;
  void* block = ::operator new(bytes, kPage);
  blocks_.push_back(block);
  return static_cast<float*>(block);
}

void Program::append(Operation op) {
  const auto describe = [this](const auto& s) { return Step{s, s.split, gathered_, uses_of(s)}; };
  steps_.push_back(std::visit(describe, op));
  const std::vector<int>& writes = steps_.back().uses.writes;
  if (quantized_.x >= 0 && std::find(writes.begin(), writes.end(), quantized_.x) != writes.end()) {
    quantized_.x = -1;
  }
}

void Program::quantize_for(int x, const Matrix& w) {
  const Seen seen = info(w.format).activations;
  if (seen == Seen::floats) return;
  panel_lines_ = std::max(panel_lines_, seen == Seen::groups ? w.groups : (w.groups + 1) * w.halves());
  const QuantizeStep wanted{.x = x, .seen = seen, .scale = w.input_scale};
  if (quantized_ == wanted) return;
  append(wanted);
  quantized_ = wanted;
}

void Program::add(Operation op) { append(std::move(op)); }

void Program::add(const EmbedStep& s) {
  min_vocab_ = std::min(min_vocab_, s.table.n);
  append(s);
}

void Program::add(const LookupStep& s) {
  min_vocab_ = std::min(min_vocab_, s.table.rows);
  append(s);
}

void Program::add(const LinearStep& s) {
  weight_bytes_ += s.w.tiles * tile_bytes(s.w);
  quantize_for(s.x, s.w);
  append(s);
}

void Program::add(const AttentionStep& s) {
  append(s);
  if (s.window > 0) return;
  position_bytes_ += int64_t{4} * s.kv_heads * s.head_dim;
  widest_records_ = std::max(widest_records_, s.heads * record_floats(s.head_dim));
  append(JoinPartsStep{s});
}

void Program::add(const SoftcapStep& s) {
  LinearStep* before = steps_.empty() ? nullptr : std::get_if<LinearStep>(&steps_.back().op);
  if (before != nullptr && before->out == s.x) {
    before->cap = s.cap;  // while the tile is at hand: no second sweep over the logits
    return;
  }
  append(s);
}

void Program::add(const GatherStep& s) {
  gathered_ = true;
  quantized_.x = -1;  // its panels hold other rows
  append(s);
}

void Program::add_experts(int x, int scores, int out, const Matrix& gate_up, const Matrix& down, int top_k,
                          const float* expert_scale) {
  if (!experts_) experts_ = std::make_unique<Experts>();
  experts_->reserve(max_rows_, top_k, gate_up, down);
  weight_bytes_ += (gate_up.tiles * tile_bytes(gate_up) + down.tiles * tile_bytes(down)) * top_k;
  quantize_for(x, gate_up);
  append(RouteStep{scores, expert_scale});
  append(GroupExpertsStep{});
  append(ExpertUpStep{x, gate_up});
  append(ExpertActStep{top_k});
  append(ExpertDownStep{down});
  append(ExpertSumStep{out});
}

void Program::add_centroid_head(int x, int out, int ids, const Matrix& centroids, const Matrix& table,
                                const int32_t* order, int64_t size, int top_k) {
  if (!clusters_) clusters_ = std::make_unique<Clusters>();
  clusters_->reserve(max_rows_, top_k);
  buffers_.push_back({centroids.n, (centroids.n + 15) / 16 * 16, nullptr});
  const int scores = static_cast<int>(buffers_.size()) - 1;
  add(LinearStep{.x = x, .out = scores, .w = centroids, .scale = 1.0f});
  append(PickClustersStep{scores, ids, order, size, top_k});
  weight_bytes_ += (size + 15) / 16 * top_k * tile_bytes(table);
  quantize_for(x, table);
  append(ClusterLogitsStep{x, out, table, size, top_k});
}

bool Program::has_head_rows(int buffer) const {
  return std::none_of(steps_.begin(), steps_.end(), [&](const Step& s) {
    const std::vector<int>& writes = s.uses.writes;
    return gathered_ && !s.head_rows && std::find(writes.begin(), writes.end(), buffer) != writes.end();
  });
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
  static_assert(sizeof(QuantGroup) == 16 * sizeof(float) && sizeof(CodeLine) == sizeof(QuantGroup));
  const int64_t panels = (max_rows_ + kPanelRows - 1) / kPanelRows;
  panels_ = allocate(panels * kPanelRows * panel_lines_ * 16 + 16);
  stages_ = make_stages(steps_);
  done_ = std::make_unique<Pieces[]>(stages_.size());
  shares_ = std::make_unique<Share[]>(stages_.size() * static_cast<size_t>(pool_->size()));
}

void Program::bind(int buffer, float* base, int64_t stride) {
  buffers_[static_cast<size_t>(buffer)].base = base;
  buffers_[static_cast<size_t>(buffer)].stride = stride;
}

}  // namespace geminate
