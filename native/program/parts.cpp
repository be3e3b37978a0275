// Linear, attention and gather steps: pieces are output tiles and query heads, never parts of a reduction.
#include <algorithm>
#include <cstring>

#include "program/program.h"

namespace geminate {
namespace {

// Bytes of weights below which a linear step has one piece per thread.
constexpr int64_t kSmallStep = 1 << 19;
constexpr int64_t kPieceBytes = 1 << 17;  // otherwise pieces of about this size

}  // namespace

int64_t Program::linear_tiles(const LinearStep& s, int64_t rows) const {
  const int64_t bytes = tile_bytes(s.w), share = (s.w.tiles + threads_ - 1) / threads_;
  const bool small = s.w.tiles * bytes * std::min<int64_t>(rows, 8) < kSmallStep;
  return threads_ == 1 || small ? share : std::clamp<int64_t>(kPieceBytes / bytes, 1, share);
}

int64_t Program::pieces(const LinearStep& s, int64_t rows) const {
  const int64_t tiles = linear_tiles(s, rows);
  return rows == 0 ? 0 : (s.w.tiles + tiles - 1) / tiles;
}

void Program::run_part(const LinearStep& s, const PieceAt& at) {
  const Buffer& out = buffer(s.out);
  const int64_t tiles = linear_tiles(s, at.rows), begin = at.index * tiles,
                end = std::min(begin + tiles, s.w.tiles);
  const TileRange range{0, begin, end, s.w.n - 16 * begin};
  const int64_t columns = std::min(16 * (end - begin), range.valid);
  for (int64_t r = 0; r < at.rows; r += kPanelRows) {
    const int64_t block = std::min<int64_t>(kPanelRows, at.rows - r);
    float* to = out.row(r) + 16 * begin;
    const Activations x = activations(s.x, r, at.rows, s.w.groups);
    multiply(*kernels_, s.w, range, x, block, to, out.stride, s.scale);
    for (int64_t i = 0; s.cap > 0.0f && i < block; ++i) {
      kernels_->softcap(to + i * out.stride, columns, s.cap);
    }
  }
}

int Program::attention_heads(const AttentionStep& s, const std::vector<Run>& runs) const {
  const int per_kv = s.heads / s.kv_heads;
  int heads = std::min(kHeadBlock, per_kv);
  while (heads > 1 &&
         static_cast<int>(runs.size()) * s.kv_heads * ((per_kv + heads - 1) / heads) < threads_) {
    heads /= 2;
  }
  return heads;
}

int64_t Program::pieces(const AttentionStep& s, const std::vector<Run>& runs) const {
  const int64_t heads = attention_heads(s, runs), per_kv = s.heads / s.kv_heads;
  return static_cast<int64_t>(runs.size()) * s.kv_heads * ((per_kv + heads - 1) / heads);
}

void Program::run_part(const AttentionStep& s, const PieceAt& at) {
  thread_local std::vector<float> scratch;
  const Buffer &q = buffer(s.q), &out = buffer(s.out);
  const std::vector<Run>& all_runs = runs(at.head_rows);
  const int64_t per_kv = s.heads / s.kv_heads, heads = attention_heads(s, all_runs);
  const int64_t blocks = (per_kv + heads - 1) / heads;
  const Run& run = all_runs[static_cast<size_t>(at.index / (s.kv_heads * blocks))];
  const int64_t kv = at.index / blocks % s.kv_heads, head = kv * per_kv + at.index % blocks * heads;
  const KvSlot slot = at.pass.caches[static_cast<size_t>(at.pass.sequences[run.all])].slot(s.slot);
  const int64_t position = at.pass.positions[run.all];
  AttentionTask task{
      .q = q.row(run.first) + head * s.head_dim,
      .out = out.row(run.first) + head * s.head_dim,
      .q_stride = q.stride,
      .out_stride = out.stride,
      .keys = slot.keys + kv * slot.rows * s.head_dim,
      .values = slot.values + kv * slot.rows * s.head_dim,
      .rows = slot.rows,
      .first = s.window > 0 ? position - s.window + 1 : -run.count,
      .last = s.include_self ? position : position - 1,
      .count = static_cast<int>(run.count),
      .heads = static_cast<int>(std::min<int64_t>(heads, per_kv - at.index % blocks * heads)),
      .head_dim = s.head_dim,
      .scratch = nullptr,
  };
  scratch.resize(static_cast<size_t>(attention_scratch(task.heads, task.head_dim) * run.count));
  task.scratch = scratch.data();
  kernels_->attention(task);
}

int64_t Program::pieces(const GatherStep&, int64_t) const { return 1; }

// Head rows ascend, so none is overwritten before it is moved.
void Program::run_part(const GatherStep& s, const PieceAt& at) {
  const Buffer& x = buffer(s.x);
  for (int64_t i = 0; i < at.rows; ++i) {
    const int64_t from = at.pass.head_rows[i];
    if (from != i) std::memcpy(x.row(i), x.row(from), static_cast<size_t>(x.width) * sizeof(float));
  }
}

}  // namespace geminate
