// Linear and gather steps: pieces are output tiles, never parts of a reduction.
#include <algorithm>
#include <cstring>

#include "program/program.h"

namespace geminate {
namespace {

// Bytes of weights below which a linear step has one piece per thread.
constexpr int64_t kSmallStep = 1 << 19;
constexpr int64_t kPieceBytes = 1 << 17;  // otherwise pieces of about this size
// From this many rows on, so in prompts, a piece has kPanelTiles tiles if that leaves every thread kShares
// pieces: activations that were fetched serve them all.
constexpr int64_t kManyRows = 4 * kPanelRows, kPanelTiles = 8, kShares = 4;

}  // namespace

int64_t Program::linear_tiles(const LinearStep& s, int64_t rows) const {
  const int64_t bytes = tile_bytes(s.w), share = (s.w.tiles + threads_ - 1) / threads_;
  if (s.w.tiles * bytes * std::min<int64_t>(rows, 8) < kSmallStep) return share;
  if (rows >= kManyRows) {
    return std::clamp<int64_t>(std::max(kPieceBytes / bytes, kPanelTiles), 1,
                               (share + kShares - 1) / kShares);
  }
  return threads_ == 1 ? share : std::clamp<int64_t>(kPieceBytes / bytes, 1, share);
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
  const bool largest =
      at.pass.largest && s.out == logits_ && at.head_rows && s.w.halves() == 2 && s.scale > 0.0f;
  for (int64_t r = 0; r < at.rows; r += kPanelRows) {
    const int64_t block = std::min<int64_t>(kPanelRows, at.rows - r);
    float* to = out.row(r) + 16 * begin;
    const Activations x = activations(s.x, s.w, r, at.rows);
    const Largest seen{largest ? largest_.data() + r : nullptr, s.cap};
    multiply(*kernels_, s.w, range, x, block, to, out.stride, s.scale, at.rows >= kManyRows,
             largest ? &seen : nullptr);
    for (int64_t i = 0; s.cap > 0.0f && i < block; ++i) {
      kernels_->softcap(to + i * out.stride, columns, s.cap);
    }
  }
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
