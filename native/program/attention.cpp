// Attention steps: pieces are query heads of a KV head and, in long contexts, parts of the positions.
#include <algorithm>

#include "program/program.h"

namespace geminate {
namespace {

constexpr int64_t kMostRecords = 8 << 20;  // floats that records of parts walked apart may take
constexpr int64_t kFewBlocks = 8;  // for each thread: above, a piece walks all parts of its run in turn

int64_t last_seen(const AttentionStep& s, int64_t position) {
  return s.include_self ? position : position - 1;
}

}  // namespace

float* AlignedFloats::reserve(int64_t floats) {
  const size_t wanted = static_cast<size_t>(floats) + 16;
  if (floats_.size() < wanted) floats_.resize(wanted);
  const uintptr_t behind = reinterpret_cast<uintptr_t>(floats_.data()) % 64;
  return floats_.data() + (64 - behind) % 64 / sizeof(float);
}

AttentionCut Program::attention_cut(const AttentionStep& s, const std::vector<Run>& runs) const {
  const int64_t per_kv = s.heads / s.kv_heads, blocks = static_cast<int64_t>(runs.size()) * s.kv_heads;
  AttentionCut cut{1, 1, per_kv};
  if (runs.empty()) return cut;
  const int64_t parts = s.window > 0 ? 1 : parts_of(positions_), rows = runs.back().first + runs.back().count;
  const int64_t floats = rows * parts * s.heads * record_floats(s.head_dim);
  if (threads_ > 1 && blocks < kFewBlocks * threads_ && floats <= kMostRecords) cut.parts = parts;
  // Parts differ in length, so there are at least two for each thread.
  const int64_t enough = cut.parts > 1 ? 2 * threads_ : threads_;
  while (cut.heads > 1 && blocks * cut.parts * cut.groups < enough) {
    cut.heads = (cut.heads + 1) / 2;
    cut.groups = (per_kv + cut.heads - 1) / cut.heads;
  }
  return cut;
}

void Program::reserve_records(const std::vector<Run>& runs) {
  if (threads_ == 1 || runs.empty() || positions_ <= kPart) return;
  if (static_cast<int64_t>(runs.size()) >= kFewBlocks * threads_) return;
  const int64_t rows = runs.back().first + runs.back().count;
  records_ = record_memory_.reserve(std::min(rows * parts_of(positions_) * widest_records_, kMostRecords));
}

float* Program::part_record(const AttentionStep& s, int64_t row, int64_t parts, int64_t part, int64_t head) {
  return records_ + ((row * parts + part) * s.heads + head) * record_floats(s.head_dim);
}

int64_t Program::pieces(const AttentionStep& s, const std::vector<Run>& runs) const {
  const AttentionCut cut = attention_cut(s, runs);
  return static_cast<int64_t>(runs.size()) * cut.parts * s.kv_heads * cut.groups;
}

void Program::run_part(const AttentionStep& s, const PieceAt& at) {
  const std::vector<Run>& all_runs = runs(at.head_rows);
  const AttentionCut cut = attention_cut(s, all_runs);
  const int64_t group = at.index % cut.groups, kv = at.index / cut.groups % s.kv_heads;
  const int64_t part = at.index / (cut.groups * s.kv_heads) % cut.parts;
  const Run& run = all_runs[static_cast<size_t>(at.index / (cut.groups * s.kv_heads * cut.parts))];
  const int64_t position = at.pass.positions[run.all], last = last_seen(s, position);
  if (part > 0 && part * kPart >= last + run.count) return;
  const int64_t per_kv = s.heads / s.kv_heads, head = kv * per_kv + group * cut.heads;
  const int64_t heads = std::min(cut.heads, per_kv - group * cut.heads), record = record_floats(s.head_dim);
  const int64_t queries = run.count * heads, floats = queries * record;
  thread_local AlignedFloats memory;
  float* scratch = memory.reserve(2 * floats + attention_scratch(queries));
  float *all = scratch, *later = scratch + floats;
  const Buffer &q = buffer(s.q), &out = buffer(s.out);
  AttentionTask task{
      .q = q.row(run.first) + head * s.head_dim,
      .q_stride = q.stride,
      .slot = at.pass.caches[static_cast<size_t>(at.pass.sequences[run.all])].slot(s.slot),
      .kv_head = kv,
      .begin = part * kPart,
      .end = s.window > 0 ? last + run.count : (part + 1) * kPart,
      .first = s.window > 0 ? position - s.window + 1 : -run.count,
      .last = last,
      .count = static_cast<int>(run.count),
      .heads = static_cast<int>(heads),
      .head_dim = s.head_dim,
      .records = all,
      .record_stride = heads * record,
      .scratch = later + floats,
  };
  if (cut.parts > 1) {
    task.records = part_record(s, run.first, cut.parts, part, head);
    task.record_stride = cut.parts * s.heads * record;
    kernels_->attention(task);
    return;
  }
  kernels_->attention(task);
  for (task.records = later; task.end < last + run.count;) {
    task.begin = task.end;
    task.end += kPart;
    kernels_->attention(task);
    for (int64_t i = 0; i < queries; ++i) {
      kernels_->join_records(later + i * record, all + i * record, s.head_dim);
    }
  }
  for (int64_t i = 0; i < queries; ++i) {
    float* to = out.row(run.first + i / heads) + (head + i % heads) * s.head_dim;
    kernels_->finish_record(all + i * record, to, s.head_dim, task.slot.key_scales != nullptr);
  }
}

void Program::run_row(const JoinPartsStep& step, const RowAt& at) {
  const AttentionStep& s = step.attention;
  const int64_t parts = attention_cut(s, runs(at.head_rows)).parts;
  if (parts == 1) return;
  const CacheTable& cache = at.pass.caches[static_cast<size_t>(at.pass.sequences[at.all])];
  const bool turned = cache.slot(s.slot).key_scales != nullptr;
  const int64_t own = parts_of(last_seen(s, at.pass.positions[at.all]) + 1);
  float* out = buffer(s.out).row(at.row);
  for (int64_t head = 0; head < s.heads; ++head) {
    float* all = part_record(s, at.row, parts, 0, head);
    for (int64_t part = 1; part < own; ++part) {
      kernels_->join_records(part_record(s, at.row, parts, part, head), all, s.head_dim);
    }
    kernels_->finish_record(all, out + head * s.head_dim, s.head_dim, turned);
  }
}

}  // namespace geminate
