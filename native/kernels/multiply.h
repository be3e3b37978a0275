// Which kernel multiplies a format's weights, and what it wants of the activations.
#pragma once

#include "contract.h"

namespace geminate {

// Up to kPanelRows activation rows: a panel of groups for quantized formats, else float rows.
struct Activations {
  const QuantGroup* panel = nullptr;  // [groups, rows]
  const float* x = nullptr;           // row i at x + i * x_stride
  int64_t x_stride = 0;
};

// out[m * out_stride + i] = scale * (row m . weight row i of the range) for m < rows.
inline void multiply(const Kernels& kernels, const Matrix& w, const TileRange& range, const Activations& a,
                     int64_t rows, float* out, int64_t out_stride, float scale) {
  if (info(w.format).quantized) {
    kernels.linear_quantized(w, range, a.panel, rows, out, out_stride, scale);
  } else {
    kernels.linear_bf16(w, range, a.x, a.x_stride, rows, out, out_stride, scale);
  }
}

}  // namespace geminate
