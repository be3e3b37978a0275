// Products of the block formats in plain C++, for instruction sets that have none of their own. Included
// inside the namespace of each, behind the definition of I.

template <Cells C, int R>
static inline void add_cell(const uint8_t* cell, const QuantGroup* x, I* sums) {
  for (int m = 0; m < (C == Cells::six ? 2 * R : R); ++m) {
    int32_t lanes[16];
    __builtin_memcpy(lanes, &sums[m], sizeof lanes);
    const int first = C == Cells::six && m >= R ? 16 : 0, last = C == Cells::six && m < R ? 16 : 32;
    for (int row = 0; row < 16; ++row) {
      for (int column = first; column < last; ++column) {
        int code = cell_code(C, cell, row, column);
        if (C == Cells::looked_up) code = kLookedUp[code];
        lanes[row] += code * x[m % R].code[column];
      }
    }
    __builtin_memcpy(&sums[m], lanes, sizeof lanes);
  }
}
