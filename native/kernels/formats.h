// The weight formats: all that differs between them, apart from the loops that read their codes.
#pragma once

#include <cstdint>

namespace geminate {

constexpr int kTileRows = 16;  // output rows of a weight tile
constexpr int kGroup = 32;     // columns that share a scale

enum class Format : int { bf16, int8, int4 };

struct FormatInfo {
  Format format;
  const char* name;     // as in geminate.formats.table
  int64_t cell_bytes;   // of kTileRows rows and kGroup columns, scales aside
  bool scaled;          // each row and group has a float16 scale
  bool quantized;       // multiplies int8 activations (QuantGroup), else float32
  int64_t table_bytes;  // of a value in a row table; 0: the format has no row tables
};

// By Format.
constexpr FormatInfo kFormats[] = {
    {.format = Format::bf16,
     .name = "bf16",
     .cell_bytes = 1024,
     .scaled = false,
     .quantized = false,
     .table_bytes = 2},
    {.format = Format::int8,
     .name = "int8",
     .cell_bytes = 512,
     .scaled = true,
     .quantized = true,
     .table_bytes = 1},
    {.format = Format::int4,
     .name = "int4",
     .cell_bytes = 256,
     .scaled = true,
     .quantized = true,
     .table_bytes = 0},
};

// Static: files compiled for different instruction sets include this.
static constexpr const FormatInfo& info(Format format) { return kFormats[static_cast<int>(format)]; }

}  // namespace geminate
