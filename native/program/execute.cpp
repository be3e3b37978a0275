// Runs a compiled plan: stage by stage, piece by piece.
#include <algorithm>
#include <cstring>

#include "program/program.h"

namespace geminate {
namespace {

constexpr int64_t kSmallStep =
    1 << 19;  // bytes of weights below which a linear step has one piece per thread
constexpr int64_t kPieceBytes = 1 << 17;  // otherwise pieces of about this size
constexpr int64_t kSmallPlan = 1 << 20;   // bytes of weights below which one thread is faster than two

}  // namespace

int Program::threads_for(int64_t rows) const {
  return weight_bytes_ * std::min<int64_t>(rows, 8) < kSmallPlan ? 1 : pool_->size();
}

void Program::run(const Pass& pass) {
  prepare(pass, threads_for(pass.rows));
  struct Job {
    Program* program;
    const Pass* pass;
  } job{this, &pass};
  pool_->run(
      threads_,
      [](void* context, int thread) {
        const Job& j = *static_cast<Job*>(context);
        j.program->walk(*j.pass, thread);
      },
      &job);
}

void Program::prepare(const Pass& pass, int threads) {
  threads_ = threads;
  expert_reads_ = 0;
  runs_.clear();
  for (int64_t r = 0; r < pass.rows; ++r) {
    const bool joins = !runs_.empty() && runs_.back().count < kAttentionRows &&
                       pass.sequences[r] == pass.sequences[r - 1] &&
                       pass.positions[r] == pass.positions[r - 1] + 1;
    if (joins) {
      ++runs_.back().count;
    } else {
      runs_.push_back({r, 1});
    }
  }
  ends_.resize(stages_.size());
  for (size_t i = 0; i < stages_.size(); ++i) {
    done_[i].done.store(0, std::memory_order_relaxed);
    ends_[i].clear();
    int64_t total = 0;
    for (const Work& work : stages_[i]) ends_[i].push_back(total += pieces_of(work, pass));
    for (int t = 0; t < threads; ++t) share(i, t)->store(share_begin(i, t), std::memory_order_relaxed);
  }
}

std::atomic<int64_t>* Program::share(size_t stage, int thread) {
  return &shares_[stage * static_cast<size_t>(pool_->size()) + static_cast<size_t>(thread)].next;
}

int64_t Program::share_begin(size_t stage, int thread) const {
  return ends_[stage].back() * thread / threads_;
}

// A thread first takes its own share of a stage in order, one sequential stream of weights, then what is left
// of the others': threads need not run equally fast.
void Program::walk(const Pass& pass, int thread) {
  for (size_t i = 0; i < stages_.size(); ++i) {
    const std::vector<int64_t>& ends = ends_[i];
    uint32_t finished = 0;
    for (int t = 0; t < threads_; ++t) {
      const int owner = (thread + t) % threads_;
      const int64_t end = share_begin(i, owner + 1);
      std::atomic<int64_t>& next = *share(i, owner);
      while (next.load(std::memory_order_relaxed) < end) {
        const int64_t p = next.fetch_add(1, std::memory_order_relaxed);
        if (p >= end) break;
        size_t w = 0;
        while (p >= ends[w]) ++w;
        piece(stages_[i][w], p - (w == 0 ? 0 : ends[w - 1]), pass);
        ++finished;
      }
    }
    if (threads_ == 1) continue;
    const uint32_t total = static_cast<uint32_t>(ends.back());
    if (finished > 0) done_[i].finish(finished, total);
    done_[i].wait(total);
  }
}

int64_t Program::pieces_of(const Work& work, const Pass& pass) const {
  const int64_t rows = work.head_rows ? pass.heads : pass.rows;
  if (work.split != Split::parts) return work.split == Split::rows ? rows : 1;
  const Step& s = steps_[work.steps[0]];
  const int64_t experts = s.w.stack, assignments = rows * s.top_k;
  switch (s.op) {
    case Op::linear: {
      const int64_t tiles = linear_tiles(s, rows);
      return rows == 0 ? 0 : (s.w.tiles + tiles - 1) / tiles;
    }
    case Op::attention: {
      const int64_t heads = attention_heads(s), per_kv = s.heads / s.kv_heads;
      return static_cast<int64_t>(runs_.size()) * s.kv_heads * ((per_kv + heads - 1) / heads);
    }
    case Op::expert_up:
    case Op::expert_down:
      return experts * kExpertPieces;
    default:
      return assignments;  // expert_act, cluster_logits
  }
}

void Program::piece(const Work& work, int64_t index, const Pass& pass) {
  if (work.split == Split::rows) {
    for (const size_t i : work.steps) row_step(steps_[i], pass, index);
    return;
  }
  const Step& s = steps_[work.steps[0]];
  const int64_t rows = work.head_rows ? pass.heads : pass.rows;
  switch (s.op) {
    case Op::linear:
      return linear(s, index, rows);
    case Op::attention:
      return attention(s, index, pass);
    case Op::group_experts:
      return group_experts(rows);
    case Op::expert_up:
      return expert_linear(s, index, true);
    case Op::expert_act:
      return expert_act(index);
    case Op::expert_down:
      return expert_linear(s, index, false);
    default:
      return cluster_logits(s, index);
  }
}

QuantGroup* Program::panel_row(int64_t r, int64_t rows, int64_t groups, int64_t* stride) const {
  const int64_t panel = r / kPanelRows;
  *stride = std::min<int64_t>(kPanelRows, rows - panel * kPanelRows);
  return panels_ + panel * kPanelRows * groups + r % kPanelRows;
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
    case Op::softcap:
      return kernels_->softcap(at(s.x), width(s.x), s.scale);
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

int64_t Program::linear_tiles(const Step& s, int64_t rows) const {
  const int64_t bytes = tile_bytes(s.w), share = (s.w.tiles + threads_ - 1) / threads_;
  const bool small = s.w.tiles * bytes * std::min<int64_t>(rows, 8) < kSmallStep;
  return threads_ == 1 || small ? share : std::clamp<int64_t>(kPieceBytes / bytes, 1, share);
}

void Program::linear(const Step& s, int64_t index, int64_t rows) {
  const Buffer &x = buffer(s.x), &out = buffer(s.out);
  const int64_t tiles = linear_tiles(s, rows), begin = index * tiles,
                end = std::min(begin + tiles, s.w.tiles);
  const TileRange range{0, begin, end, s.w.n - 16 * begin};
  const int64_t columns = std::min(16 * (end - begin), range.valid);
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
    for (int64_t i = 0; s.cap > 0.0f && i < block; ++i)
      kernels_->softcap(to + i * out.stride, columns, s.cap);
  }
}

int Program::attention_heads(const Step& s) const {
  const int per_kv = s.heads / s.kv_heads;
  int heads = std::min(kHeadBlock, per_kv);
  while (heads > 1 &&
         static_cast<int>(runs_.size()) * s.kv_heads * ((per_kv + heads - 1) / heads) < threads_) {
    heads /= 2;
  }
  return heads;
}

void Program::attention(const Step& s, int64_t index, const Pass& pass) {
  thread_local std::vector<float> scratch;
  const int64_t per_kv = s.heads / s.kv_heads, heads = attention_heads(s);
  const int64_t blocks = (per_kv + heads - 1) / heads;
  const Run& run = runs_[static_cast<size_t>(index / (s.kv_heads * blocks))];
  const int64_t kv = index / blocks % s.kv_heads, head = kv * per_kv + index % blocks * heads;
  const uint64_t* slot = pass.caches[static_cast<size_t>(pass.sequences[run.first])].slots + 3 * s.index;
  AttentionTask task{};
  task.q = buffer(s.x).row(run.first) + head * s.head_dim;
  task.q_stride = buffer(s.x).stride;
  task.out = buffer(s.out).row(run.first) + head * s.head_dim;
  task.out_stride = buffer(s.out).stride;
  task.count = static_cast<int>(run.count);
  task.rows = static_cast<int64_t>(slot[2]);
  task.keys = reinterpret_cast<const uint16_t*>(slot[0]) + kv * task.rows * s.head_dim;
  task.values = reinterpret_cast<const uint16_t*>(slot[1]) + kv * task.rows * s.head_dim;
  const int64_t position = pass.positions[run.first];
  task.first = s.window > 0 ? position - s.window + 1 : -run.count;
  task.last = s.include_self ? position : position - 1;
  task.heads = static_cast<int>(std::min<int64_t>(heads, per_kv - index % blocks * heads));
  task.head_dim = s.head_dim;
  scratch.resize(static_cast<size_t>(attention_scratch(task.heads, task.head_dim) * run.count));
  task.scratch = scratch.data();
  kernels_->attention(task);
}

}  // namespace geminate
