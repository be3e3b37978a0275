// The weight formats: all that differs between them, apart from the loops that read their codes.
#pragma once

#include <cstdint>

namespace geminate {

constexpr int kTileRows = 16;    // output rows of a weight tile
constexpr int kGroup = 32;       // columns that share a scale, and columns of a cell but for the row formats
constexpr int kRowColumns = 64;  // columns of a cell of the row formats
constexpr int kMostBits = 8;     // of a code of the row formats
constexpr int kMostColumns = 1 << 15;  // of a matrix in a row format

// Sums over a row begin at -2^(bits - 1) times the sum of the activations and take unsigned codes times int8
// on top of that: no sum on the way leaves int32.
static_assert(int64_t{kMostColumns} * 128 * ((1 << kMostBits) - 1 + (1 << (kMostBits - 1))) <= INT32_MAX);

enum class Format : int { bf16, int8, int4, q2r, q4r, q8r, q4_k, q5_k, q6_k, q5_0, q5_1, iq4_nl };

// What products see of the activations.
enum class Seen {
  floats,
  groups,  // int8 codes, a scale for each group (QuantGroup)
  rows     // int8 codes, one scale for all of a row (CodeLine)
};

struct FormatInfo {
  Format format;
  const char* name;  // as in geminate.formats.table
  int bits;          // of a stored weight, scales aside
  int columns;       // of a cell
  Seen activations;
  bool table;  // whether tables that are read row by row come in this format
  // Of formats with group scales: columns that share a record of scales, and what a record holds: float16
  // numbers, then bytes.
  int block = kGroup;
  int halves = 1;
  int small = 0;
  int stored =
      0;  // bytes of a block as GGUF files have it, and so row tables; 0 where those are arranged anew
  constexpr int64_t record_words() const { return halves + small / 2; }
  constexpr int64_t cell_bytes() const { return int64_t{kTileRows} * columns * bits / 8; }
  // float16, for each row and group
  constexpr bool group_scales() const { return activations == Seen::groups; }
  // float32, for each row
  constexpr bool row_scales() const { return activations == Seen::rows; }
};

// By Format.
constexpr FormatInfo kFormats[] = {
    {.format = Format::bf16,
     .name = "bf16",
     .bits = 16,
     .columns = kGroup,
     .activations = Seen::floats,
     .table = true},
    {.format = Format::int8,
     .name = "int8",
     .bits = 8,
     .columns = kGroup,
     .activations = Seen::groups,
     .table = true},
    {.format = Format::int4,
     .name = "int4",
     .bits = 4,
     .columns = kGroup,
     .activations = Seen::groups,
     .table = false},
    {.format = Format::q2r,
     .name = "q2r",
     .bits = 2,
     .columns = kRowColumns,
     .activations = Seen::rows,
     .table = true},
    {.format = Format::q4r,
     .name = "q4r",
     .bits = 4,
     .columns = kRowColumns,
     .activations = Seen::rows,
     .table = true},
    {.format = Format::q8r,
     .name = "q8r",
     .bits = 8,
     .columns = kRowColumns,
     .activations = Seen::rows,
     .table = true},
    {.format = Format::q4_k,
     .name = "q4_k",
     .bits = 4,
     .columns = kGroup,
     .activations = Seen::groups,
     .table = true,
     .block = 256,
     .halves = 2,
     .small = 16,
     .stored = 144},
    {.format = Format::q5_k,
     .name = "q5_k",
     .bits = 5,
     .columns = kGroup,
     .activations = Seen::groups,
     .table = true,
     .block = 256,
     .halves = 2,
     .small = 16,
     .stored = 176},
    {.format = Format::q6_k,
     .name = "q6_k",
     .bits = 6,
     .columns = kGroup,
     .activations = Seen::groups,
     .table = true,
     .block = 256,
     .small = 16,
     .stored = 210},
    {.format = Format::q5_0,
     .name = "q5_0",
     .bits = 5,
     .columns = kGroup,
     .activations = Seen::groups,
     .table = true,
     .stored = 22},
    {.format = Format::q5_1,
     .name = "q5_1",
     .bits = 5,
     .columns = kGroup,
     .activations = Seen::groups,
     .table = true,
     .halves = 2,
     .stored = 24},
    {.format = Format::iq4_nl,
     .name = "iq4_nl",
     .bits = 4,
     .columns = kGroup,
     .activations = Seen::groups,
     .table = true,
     .stored = 18},
};

// Static: files compiled for different instruction sets include this.
static constexpr const FormatInfo& info(Format format) { return kFormats[static_cast<int>(format)]; }

}  // namespace geminate
