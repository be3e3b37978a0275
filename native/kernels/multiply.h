// Which kernel multiplies a format's weights, and what it wants of the activations.
#pragma once

#include "contract.h"

namespace geminate {

// Up to kPanelRows activation rows, as the format wants to see them.
struct Activations {
  const QuantGroup* panel = nullptr;  // [groups, rows]
  const CodeLine* codes = nullptr;    // [groups + 1, halves, rows]
  const float* x = nullptr;           // row i at x + i * x_stride
  int64_t x_stride = 0;
};

// Groups of columns whose activations (24 KiB of a panel) stay in the first-level cache from tile to tile.
constexpr int64_t kNearGroups = 48;
static_assert(kNearGroups * kGroup % 256 == 0, "whole blocks of every format");

// out[m * out_stride + i] = scale * (row m . weight row i of the range) for m < rows.
//
// again: whether the weights of the range are read for other rows too, so that they are near, and the panel
// is what comes from afar; otherwise each tile is one stream.
// largest: null, or of these rows; see Kernels::linear_rows.
inline void multiply(const Kernels& kernels, const Matrix& w, const TileRange& range, const Activations& a,
                     int64_t rows, float* out, int64_t out_stride, float scale, bool again = false,
                     const Largest* largest = nullptr) {
  switch (info(w.format).activations) {
    case Seen::floats:
      return kernels.linear_bf16(w, range, a.x, a.x_stride, rows, out, out_stride, scale);
    case Seen::rows:
      return kernels.linear_rows(w, range, a.codes, rows, out, out_stride, scale, largest);
    case Seen::groups:
      break;
  }
  const int64_t step = again ? kNearGroups : w.groups;
  for (int64_t g = 0; g < w.groups; g += step) {
    const GroupRange groups{g, g + step < w.groups ? g + step : w.groups};
    kernels.linear_quantized(w, range, groups, a.panel, rows, out, out_stride, scale);
  }
}

}  // namespace geminate
