#include "binding/weights.h"

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
  if (!format.scaled) return nullptr;
  require(scales.has_value(), call, ": scales is None, but ", format.name, " weights need ", wanted);
  require_size(*scales, wanted, call, "scales", format.name, " weights of this size");
  return scales->data();
}

}  // namespace

MatrixRef::MatrixRef(const std::string& format, int64_t n, int64_t k, int64_t stack, In<uint8_t> d,
                     std::optional<In<uint16_t>> s)
    : data(std::move(d)), scales(std::move(s)) {
  const FormatInfo& f = format_named("Matrix", format);
  require(n > 0 && k > 0 && stack > 0, "Matrix: n, k and stack must be positive, but are ", n, ", ", k,
          " and ", stack);
  const int64_t tiles = (n + kTileRows - 1) / kTileRows, groups = (k + kGroup - 1) / kGroup;
  const int64_t cells = stack * tiles * groups;
  require_size(data, cells * f.cell_bytes, "Matrix", "data", f.name, " weights [", stack, ", ", n, ", ", k,
               "]");
  m = {f.format, n, k, tiles, groups, stack, data.data(), nullptr};
  m.scales = checked_scales("Matrix", f, scales, cells * kTileRows);
}

TableRef::TableRef(const std::string& format, int64_t rows, int64_t width, In<uint8_t> d,
                   std::optional<In<uint16_t>> s)
    : data(std::move(d)), scales(std::move(s)) {
  const FormatInfo& f = format_named("RowTable", format);
  require(f.table_bytes > 0, "RowTable: format is ", f.name, ", which has no row tables");
  require(rows > 0 && width > 0, "RowTable: rows and width must be positive, but are ", rows, " and ", width);
  const int64_t groups = (width + kGroup - 1) / kGroup, stride = f.scaled ? groups * kGroup : width;
  require_size(data, rows * stride * f.table_bytes, "RowTable", "data", f.name, " rows [", rows, ", ", width,
               "]");
  t = {f.format, rows, width, stride, data.data(), nullptr};
  t.scales = checked_scales("RowTable", f, scales, rows * groups);
}

}  // namespace geminate
