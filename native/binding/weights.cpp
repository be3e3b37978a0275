#include "binding/weights.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace geminate {
namespace {

const FormatInfo& format_named(const char* call, const std::string& name) {
  std::string known;
  for (const FormatInfo& row : kFormats) {
    if (name == row.name) return row;
    known += (known.empty() ? "" : ", ") + std::string(row.name);
  }
  throw std::invalid_argument(std::string(call) + ": format is " + name + ", but the kernels have " + known);
}

// The scales' address, null where the format has none.
const uint16_t* checked_scales(const char* call, const FormatInfo& format,
                               const std::optional<In<uint16_t>>& scales, int64_t wanted) {
  if (!format.group_scales()) return nullptr;
  require(scales.has_value(), call, ": scales is None, but ", format.name, " weights need ", wanted);
  require_size(*scales, wanted, call, "scales", format.name, " weights of this size");
  return scales->data();
}

const float* checked_row_scales(const char* call, const FormatInfo& format,
                                const std::optional<In<float>>& scales, int64_t wanted) {
  require(scales.has_value(), call, ": row_scales is None, but ", format.name, " weights need ", wanted);
  require_size(*scales, wanted, call, "row_scales", format.name, " weights of this size");
  return scales->data();
}

// A scale of activations: finite, and 0 where there is none.
float checked_step(const char* name, const FormatInfo& format, float step) {
  require(std::isfinite(step) && step >= 0.0f, "Matrix: ", name, " must be 0 or more, but is ", step);
  require(step == 0.0f || format.row_scales(), "Matrix: ", name, " is ", step, ", but ", format.name,
          " weights have none");
  return step;
}

}  // namespace

MatrixRef::MatrixRef(const std::string& format, int64_t n, int64_t k, int64_t stack, In<uint8_t> d,
                     std::optional<In<uint16_t>> s, std::optional<In<float>> r, float input_scale,
                     float output_scale)
    : data(std::move(d)), scales(std::move(s)), row_scales(std::move(r)) {
  const FormatInfo& f = format_named("Matrix", format);
  require(n > 0 && k > 0 && stack > 0, "Matrix: n, k and stack must be positive, but are ", n, ", ", k,
          " and ", stack);
  require(!f.row_scales() || k <= kMostColumns, "Matrix: k is ", k, ", but ", f.name, " sums hold at most ",
          kMostColumns, " columns");
  const int64_t tiles = (n + kTileRows - 1) / kTileRows, groups = (k + f.columns - 1) / f.columns;
  const int64_t cells = stack * tiles * groups;
  require_size(data, cells * f.cell_bytes(), "Matrix", "data", f.name, " weights [", stack, ", ", n, ", ", k,
               "]");
  m = {f.format, n, k, tiles, groups, stack, data.data(), nullptr};
  m.scales = checked_scales("Matrix", f, scales, stack * tiles * m.blocks() * kTileRows * f.record_words());
  if (f.row_scales()) m.row_scales = checked_row_scales("Matrix", f, row_scales, stack * tiles * kTileRows);
  m.input_scale = checked_step("input_scale", f, input_scale);
  m.output_scale = checked_step("output_scale", f, output_scale);
}

TableRef::TableRef(const std::string& format, int64_t rows, int64_t width, In<uint8_t> d,
                   std::optional<In<uint16_t>> s, std::optional<In<float>> r)
    : data(std::move(d)), scales(std::move(s)), row_scales(std::move(r)) {
  const FormatInfo& f = format_named("RowTable", format);
  require(f.table, "RowTable: format is ", f.name, ", which has no row tables");
  require(rows > 0 && width > 0, "RowTable: rows and width must be positive, but are ", rows, " and ", width);
  if (f.row_scales()) {
    const int64_t bytes = (width * f.bits + 7) / 8;
    require_size(data, rows * bytes, "RowTable", "data", f.name, " rows [", rows, ", ", width, "]");
    const int64_t blocks = row_scales ? std::max<int64_t>(size_of(*row_scales) / rows, 1) : 1;
    require(width % blocks == 0, "RowTable: row_scales has ", blocks,
            " scales for a row, which do not divide ", width, " columns");
    t = {f.format, rows, width, bytes, data.data(), nullptr};
    t.row_scales = checked_row_scales("RowTable", f, row_scales, rows * blocks);
    t.blocks = blocks;
    return;
  }
  if (f.stored > 0) {
    require(width % f.block == 0, "RowTable: width is ", width, ", but ", f.name, " blocks have ", f.block,
            " columns");
    const int64_t bytes = width / f.block * f.stored;
    require_size(data, rows * bytes, "RowTable", "data", f.name, " rows [", rows, ", ", width, "]");
    t = {f.format, rows, width, bytes, data.data(), nullptr};
    return;
  }
  const int64_t groups = (width + kGroup - 1) / kGroup, stride = f.group_scales() ? groups * kGroup : width;
  require_size(data, rows * stride * f.bits / 8, "RowTable", "data", f.name, " rows [", rows, ", ", width,
               "]");
  t = {f.format, rows, width, stride, data.data(), nullptr};
  t.scales = checked_scales("RowTable", f, scales, rows * groups);
}

}  // namespace geminate
