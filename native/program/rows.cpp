// Steps that work on one row at a time.
#include <cstring>

#include "program/program.h"

namespace geminate {
namespace {

void copy_floats(float* to, const float* from, int64_t n) {
  std::memcpy(to, from, static_cast<size_t>(n) * sizeof(float));
}

}  // namespace

void Program::run_row(const EmbedStep& s, const RowAt& at) {
  kernels_->embed(s.table, at.pass.ids[at.all], s.scale, buffer(s.out).row(at.row));
}

void Program::run_row(const LookupStep& s, const RowAt& at) {
  const Buffer& out = buffer(s.out);
  kernels_->lookup(s.table, at.pass.ids[at.all], s.column, out.width, s.scale, out.row(at.row));
}

void Program::run_row(const ConcatStep& s, const RowAt& at) {
  const Buffer &a = buffer(s.a), &b = buffer(s.b);
  float* out = buffer(s.out).row(at.row);
  copy_floats(out, a.row(at.row), a.width);
  copy_floats(out + a.width, b.row(at.row), b.width);
}

void Program::run_row(const NormStep& s, const RowAt& at) {
  const Buffer& x = buffer(s.x);
  kernels_->rms_norm(x.row(at.row), buffer(s.out).row(at.row), s.weight, x.width, s.groups, s.eps);
}

void Program::run_row(const QuantizeStep& s, const RowAt& at) {
  const Buffer& x = buffer(s.x);
  int64_t stride;
  if (s.seen == Seen::rows) {
    const int64_t groups = (x.width + kRowColumns - 1) / kRowColumns;
    CodeLine* to = code_row(at.row, at.rows, groups, s.scale > 0.0f ? 1 : 2, &stride);
    return kernels_->quantize_row(x.row(at.row), x.width, s.scale, to, stride);
  }
  QuantGroup* to = panel_row(at.row, at.rows, (x.width + kGroup - 1) / kGroup, &stride);
  kernels_->quantize(x.row(at.row), x.width, to, stride);
}

void Program::run_row(const AddStep& s, const RowAt& at) {
  const Buffer& out = buffer(s.out);
  kernels_->add_scaled(buffer(s.a).row(at.row), buffer(s.b).row(at.row), out.row(at.row), out.width, s.scale);
}

void Program::run_row(const GeluStep& s, const RowAt& at) {
  const Buffer& gate = buffer(s.gate);
  const float* up = buffer(s.up).row(at.row) + s.offset;
  kernels_->gelu_mul(gate.row(at.row), up, buffer(s.out).row(at.row), gate.width);
}

void Program::run_row(const RopeStep& s, const RowAt& at) {
  const Buffer& x = buffer(s.x);
  const RopeRows& table = at.pass.ropes[static_cast<size_t>(s.table)];
  const int64_t begin = at.pass.rope_positions[at.all] * table.pairs;
  kernels_->rope(x.row(at.row), s.groups, x.width / s.groups, table.cosine + begin, table.sine + begin,
                 table.pairs);
}

void Program::run_row(const KvStoreStep& s, const RowAt& at) {
  const CacheTable& cache = at.pass.caches[static_cast<size_t>(at.pass.sequences[at.all])];
  const KvSlot slot = cache.slot(s.slot);
  const float *keys = buffer(s.keys).row(at.row), *values = buffer(s.values).row(at.row);
  const int64_t row = at.pass.positions[at.all] % slot.rows;
  for (int64_t h = 0; h < s.kv_heads; ++h) {
    kernels_->store_kv(keys + h * s.head_dim, values + h * s.head_dim, slot, h, row, s.head_dim);
  }
}

void Program::run_row(const SoftcapStep& s, const RowAt& at) {
  kernels_->softcap(buffer(s.x).row(at.row), buffer(s.x).width, s.cap);
}

void Program::run_row(const TapStep& s, const RowAt& at) {
  const Buffer& x = buffer(s.x);
  float* to = at.pass.taps.empty() ? nullptr : at.pass.taps[static_cast<size_t>(s.index)];
  if (to != nullptr) copy_floats(to + at.row * x.width, x.row(at.row), x.width);
}

}  // namespace geminate
