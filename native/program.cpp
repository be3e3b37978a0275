#include "program.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "scratch.h"

namespace geminate {
namespace {

// Resources other than buffers, for the placing of barriers.
constexpr int kPanels = -1, kExperts = -2, kClusters = -3, kSlots = -4;  // slot i: kSlots - i

constexpr int64_t kSmallStep = 1 << 19;  // bytes of weights below which parts are dealt out beforehand
constexpr int64_t kPartBytes = 1 << 17;  // otherwise a thread takes this much at a time
constexpr int64_t kSmallPlan = 1 << 20;  // bytes of weights below which one thread is faster than two
constexpr int64_t kCapBlock = 4096;      // columns of a soft-cap part

int64_t tile_bytes(const Matrix& w) {
  const int64_t per_group = w.format == Format::int4 ? 256 : w.format == Format::int8 ? 512 : 1024;
  return w.groups * per_group;
}

bool meets(const std::vector<int>& a, const std::vector<int>& b) {
  return std::any_of(a.begin(), a.end(), [&](int r) { return std::find(b.begin(), b.end(), r) != b.end(); });
}

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
      step.split = Split::parts;
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
  counters_ = std::make_unique<std::atomic<int64_t>[]>(steps_.size() + 1);

  // A barrier stands before a step that touches what another thread may still be writing or reading.
  size_t since = 0;
  for (size_t i = 0; i < steps_.size(); ++i) {
    for (size_t j = since; j < i && !steps_[i].barrier; ++j) {
      const bool conflict =
          meets(reads_[i], writes_[j]) || meets(writes_[i], writes_[j]) || meets(writes_[i], reads_[j]);
      const bool same_owner = steps_[i].split == steps_[j].split &&
                              steps_[i].head_rows == steps_[j].head_rows && steps_[i].split != Split::parts &&
                              steps_[i].op != Op::gather;
      steps_[i].barrier = conflict && !same_owner;
    }
    if (steps_[i].barrier) since = i;
  }
}

void Program::bind(int buffer, float* base, int64_t stride) {
  buffers_[static_cast<size_t>(buffer)].base = base;
  buffers_[static_cast<size_t>(buffer)].stride = stride;
}

int Program::threads_for(int64_t rows) const {
  return weight_bytes_ * std::min<int64_t>(rows, 8) < kSmallPlan ? 1 : pool_->size();
}

void Program::run(const Pass& pass) {
  struct Job {
    Program* program;
    const Pass* pass;
    int threads;
  } job{this, &pass, threads_for(pass.rows)};
  pool_->run(
      job.threads,
      [](void* context, int thread) {
        const Job& j = *static_cast<Job*>(context);
        j.program->walk(*j.pass, thread, j.threads);
      },
      &job);
  for (size_t i = 0; i < steps_.size(); ++i) counters_[i].store(0, std::memory_order_relaxed);
}

void Program::walk(const Pass& pass, int thread, int threads) {
  for (size_t i = 0; i < steps_.size(); ++i) {
    if (steps_[i].barrier && threads > 1) pool_->barrier();
    execute(steps_[i], counters_[i], pass, thread, threads);
  }
}

QuantGroup* Program::panel_row(int64_t r, int64_t rows, int64_t groups, int64_t* stride) const {
  const int64_t panel = r / kPanelRows;
  *stride = std::min<int64_t>(kPanelRows, rows - panel * kPanelRows);
  return panels_ + panel * kPanelRows * groups + r % kPanelRows;
}

void Program::execute(const Step& s, std::atomic<int64_t>& next, const Pass& pass, int thread, int threads) {
  const int64_t rows = s.head_rows ? pass.heads : pass.rows;
  if (s.split == Split::rows) {
    const int64_t end = rows * (thread + 1) / threads;
    for (int64_t r = rows * thread / threads; r < end; ++r) row_step(s, pass, r);
    return;
  }
  switch (s.op) {
    case Op::linear:
      return linear(s, next, rows, thread, threads);
    case Op::attention:
      return attention(s, next, pass, rows, threads);
    case Op::softcap:
      return softcap(s, next, rows);
    case Op::group_experts:
      if (thread == 0) group_experts(rows);
      return;
    case Op::expert_up:
      return expert_linear(s, next, true);
    case Op::expert_act:
      return expert_act(s, next);
    case Op::expert_down:
      return expert_linear(s, next, false);
    case Op::cluster_logits:
      return cluster_logits(s, next, rows);
    default:
      return;
  }
}

void Program::row_step(const Step& s, const Pass& pass, int64_t r) {
  const auto at = [&](int b) { return buffer(b).row(r); };
  const auto width = [&](int b) { return buffer(b).width; };
  const int64_t all = s.head_rows ? pass.head_rows[r] : r;  // index of the row among all rows
  switch (s.op) {
    case Op::embed:
      return kernels_->embed(s.w, pass.ids[all], s.scale, at(s.out));
    case Op::lookup:
      return kernels_->lookup(s.table, pass.ids[all], s.scale, at(s.out));
    case Op::concat:
      std::memcpy(at(s.out), at(s.x), static_cast<size_t>(width(s.x)) * sizeof(float));
      std::memcpy(at(s.out) + width(s.x), at(s.y), static_cast<size_t>(width(s.y)) * sizeof(float));
      return;
    case Op::norm:
      return kernels_->rms_norm(at(s.x), at(s.out), s.vector, width(s.x), s.heads, s.scale);
    case Op::quantize: {
      const int64_t rows = s.head_rows ? pass.heads : pass.rows;
      int64_t stride;
      QuantGroup* to = panel_row(r, rows, (width(s.x) + kGroup - 1) / kGroup, &stride);
      return kernels_->quantize(at(s.x), width(s.x), to, stride);
    }
    case Op::add:
      return kernels_->add_scaled(at(s.x), at(s.y), at(s.out), width(s.out), s.scale);
    case Op::gelu:
      return kernels_->gelu_mul(at(s.x), at(s.y) + s.offset, at(s.out), width(s.x));
    case Op::rope: {
      const RopeRows& table = pass.ropes[static_cast<size_t>(s.index)];
      const int64_t row = pass.rope_positions[all] * table.pairs;
      return kernels_->rope(at(s.x), s.heads, width(s.x) / s.heads, table.cosine + row, table.sine + row,
                            table.pairs);
    }
    case Op::kv_store: {
      const uint64_t* slot = pass.caches[static_cast<size_t>(pass.sequences[all])].slots + 3 * s.index;
      const int64_t cache_rows = static_cast<int64_t>(slot[2]);
      const int64_t row = pass.positions[all] % cache_rows;
      for (int h = 0; h < s.kv_heads; ++h) {
        const int64_t to = (h * cache_rows + row) * s.head_dim;
        kernels_->to_half(at(s.x) + h * s.head_dim, reinterpret_cast<uint16_t*>(slot[0]) + to, s.head_dim);
        kernels_->to_half(at(s.y) + h * s.head_dim, reinterpret_cast<uint16_t*>(slot[1]) + to, s.head_dim);
      }
      return;
    }
    case Op::gather:
      std::memcpy(at(s.out), buffer(s.x).row(pass.head_rows[r]),
                  static_cast<size_t>(width(s.x)) * sizeof(float));
      return;
    case Op::tap: {
      float* to = pass.taps.empty() ? nullptr : pass.taps[static_cast<size_t>(s.index)];
      if (to != nullptr) {
        std::memcpy(to + r * width(s.x), at(s.x), static_cast<size_t>(width(s.x)) * sizeof(float));
      }
      return;
    }
    case Op::route:
      return route(s, r);
    case Op::expert_sum:
      return expert_sum(s, r);
    case Op::pick_clusters:
      return pick_clusters(s, r);
    default:
      return;
  }
}

void Program::linear(const Step& s, std::atomic<int64_t>& next, int64_t rows, int thread, int threads) {
  const Buffer &x = buffer(s.x), &out = buffer(s.out);
  const auto tiles = [&](int64_t begin, int64_t end) {
    const TileRange range{0, begin, end, s.w.n - 16 * begin};
    for (int64_t r = 0; r < rows; r += kPanelRows) {
      const int64_t block = std::min<int64_t>(kPanelRows, rows - r);
      float* to = out.row(r) + 16 * begin;
      if (s.w.format == Format::bf16) {
        kernels_->linear_bf16(s.w, range, x.row(r), x.stride, block, to, out.stride, s.scale);
      } else {
        int64_t stride;
        const QuantGroup* panel = panel_row(r, rows, s.w.groups, &stride);
        kernels_->linear_quantized(s.w, range, panel, block, to, out.stride, s.scale);
      }
    }
  };
  if (rows == 0) return;
  if (threads == 1 || s.w.tiles * tile_bytes(s.w) * std::min<int64_t>(rows, 8) < kSmallStep) {
    tiles(s.w.tiles * thread / threads, s.w.tiles * (thread + 1) / threads);
    return;
  }
  // Taken piece by piece: on a shared machine threads do not run equally fast.
  const int64_t fair = std::max<int64_t>(1, s.w.tiles / (4 * threads));
  const int64_t part = std::clamp<int64_t>(kPartBytes / tile_bytes(s.w), 1, fair);
  for (int64_t begin; (begin = next.fetch_add(part, std::memory_order_relaxed)) < s.w.tiles;) {
    tiles(begin, std::min(begin + part, s.w.tiles));
  }
}

void Program::attention(const Step& s, std::atomic<int64_t>& next, const Pass& pass, int64_t rows,
                        int threads) {
  const int per_kv = s.heads / s.kv_heads;
  int block = std::min(kHeadBlock, per_kv);
  while (block > 1 && rows * s.kv_heads * ((per_kv + block - 1) / block) < threads) block /= 2;
  const int64_t blocks = (per_kv + block - 1) / block, parts = rows * s.kv_heads * blocks;
  for (int64_t part; (part = next.fetch_add(1, std::memory_order_relaxed)) < parts;) {
    const int64_t r = part / (s.kv_heads * blocks), kv = part / blocks % s.kv_heads, b = part % blocks;
    const int64_t all = s.head_rows ? pass.head_rows[r] : r;
    const uint64_t* slot = pass.caches[static_cast<size_t>(pass.sequences[all])].slots + 3 * s.index;
    const int64_t position = pass.positions[all], head = kv * per_kv + b * block;
    AttentionTask task{};
    task.q = buffer(s.x).row(r) + head * s.head_dim;
    task.out = buffer(s.out).row(r) + head * s.head_dim;
    task.rows = static_cast<int64_t>(slot[2]);
    task.keys = reinterpret_cast<const uint16_t*>(slot[0]) + kv * task.rows * s.head_dim;
    task.values = reinterpret_cast<const uint16_t*>(slot[1]) + kv * task.rows * s.head_dim;
    task.last = s.include_self ? position : position - 1;
    task.first = s.window > 0 ? std::max<int64_t>(0, position - s.window + 1) : 0;
    task.heads = static_cast<int>(std::min<int64_t>(block, per_kv - b * block));
    task.head_dim = s.head_dim;
    kernels_->attention(task);
  }
}

void Program::softcap(const Step& s, std::atomic<int64_t>& next, int64_t rows) {
  const Buffer& x = buffer(s.x);
  const int64_t blocks = (x.width + kCapBlock - 1) / kCapBlock;
  for (int64_t part; (part = next.fetch_add(1, std::memory_order_relaxed)) < rows * blocks;) {
    const int64_t at = part % blocks * kCapBlock;
    kernels_->softcap(x.row(part / blocks) + at, std::min(kCapBlock, x.width - at), s.scale);
  }
}

}  // namespace geminate
