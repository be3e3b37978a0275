// Cells of the block formats: how codes of 4, 5 or 6 bits of 16 rows and 32 columns lie in memory.
//
// Column j of a cell is byte j % 4 of word j / 4. Low four bits: 64 bytes hold, for each row, words w and 4 +
// w in their low and high nibbles. Fifth bits stand in front of them: byte j % 4 of a row holds those of its
// words 0 to 7, low bits first. Fifth and sixth bits likewise, words 0 to 3 in the first 64 bytes and 4 to 7
// in the next.
#pragma once

#include <cstdint>

#include "kernels/formats.h"

namespace geminate {

enum class Cells {
  four,      // codes as they are
  five,      //
  six,       //
  looked_up  // indices of four bits into kLookedUp
};

// ggml's non-linear 4-bit codes (kvalues_iq4nl in ggml-common.h).
constexpr int8_t kLookedUp[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

static constexpr Cells cells_of(Format format) {
  if (format == Format::iq4_nl) return Cells::looked_up;
  const int bits = info(format).bits;
  return bits == 4 ? Cells::four : bits == 5 ? Cells::five : Cells::six;
}

// Vectors of 64 bytes in front of the nibbles.
static constexpr int high_vectors(Cells cells) {
  return cells == Cells::five ? 1 : cells == Cells::six ? 2 : 0;
}

// The stored code of a row and column of a cell.
static inline int cell_code(Cells cells, const uint8_t* cell, int row, int column) {
  const int word = column / 4, at = 4 * row + column % 4;
  const int pair = cell[64 * (high_vectors(cells) + word % 4) + at];
  int code = word < 4 ? pair & 15 : pair >> 4;
  if (cells == Cells::five) code |= (cell[at] >> word & 1) << 4;
  if (cells == Cells::six) code |= (cell[64 * (word / 4) + at] >> (2 * (word % 4)) & 3) << 4;
  return code;
}

}  // namespace geminate
