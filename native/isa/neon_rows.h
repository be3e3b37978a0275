// The row formats in NEON: four rows of a tile at a time, 32 columns of them in eight registers, so that many
// rows of activations share each load and unpacking. Included behind what defines dot32.

// Cells, or groups, whose weights stay in the first-level cache while each quarter of a tile's rows is
// walked.
constexpr int64_t kNearCells = 8;

// Columns 32 * half .. of a cell, of four rows, as signed codes; of 8 bits less 128.
template <int Bits>
static inline void unpack_cell(const uint8_t* cell, int half, int8x16_t (&codes)[8]) {
  constexpr int kEach = 8 / Bits;
#pragma GCC unroll 8
  for (int i = 0; i < 8 / kEach; ++i) {
    const int8x16_t bytes = load_codes(cell + 64 * (half * 8 / kEach + i));
    if constexpr (Bits == 8) {
      codes[i] = flipped(bytes);
    } else if constexpr (Bits == 4) {
      codes[2 * i] = low_nibbles(bytes);
      codes[2 * i + 1] = high_nibbles(bytes);
    } else {
      const int8x16_t mask = vdupq_n_s8(3);
      const uint8x16_t fields = vreinterpretq_u8_s8(bytes);
      codes[4 * i] = vandq_s8(bytes, mask);
      codes[4 * i + 1] = vandq_s8(vreinterpretq_s8_u8(vshrq_n_u8(fields, 2)), mask);
      codes[4 * i + 2] = vandq_s8(vreinterpretq_s8_u8(vshrq_n_u8(fields, 4)), mask);
      codes[4 * i + 3] = vreinterpretq_s8_u8(vshrq_n_u8(fields, 6));
    }
  }
}

// Adds the products of rows 4 * quarter .. of a tile.
template <int Bits, int R>
static inline void add_quarter(const uint8_t* w, int64_t cells, const CodeLine* x, int64_t stride, I* sums,
                               int quarter) {
  constexpr int64_t kCell = 16 * kRowColumns * Bits / 8;
  int32x4_t sum[R];
  const auto place = [&](int m) { return reinterpret_cast<char*>(sums + m) + 16 * quarter; };
#pragma GCC unroll 16
  for (int m = 0; m < R; ++m) __builtin_memcpy(&sum[m], place(m), 16);
  w += 16 * quarter;
  for (int64_t g = 0; g < cells; ++g, w += kCell, x += stride) {
    for (int half = 0; half < 2; ++half) {
      if (quarter == 0) {
        for (int64_t line = 0; line < kCell / 128; ++line)
          prefetch(w + kAhead + half * kCell / 2 + 64 * line);
      }
      int8x16_t codes[8];
      unpack_cell<Bits>(w, half, codes);
#pragma GCC unroll 8
      for (int m = 0; m + 2 <= R; m += 2) {
        dot32_twice<Bits != 8>(sum[m], sum[m + 1], codes, x[m].code + 32 * half, x[m + 1].code + 32 * half);
      }
      if constexpr (R % 2 == 1) {
        const int8_t* from = x[R - 1].code + 32 * half;
        sum[R - 1] = dot32<Bits != 8>(sum[R - 1], codes, load_codes(from), load_codes(from + 16));
      }
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < R; ++m) __builtin_memcpy(place(m), &sum[m], 16);
}

template <int Bits, int R, int T>
static inline void add_codes(const uint8_t* w, int64_t, int64_t groups, const CodeLine* x, int64_t stride,
                             I* sums) {
  static_assert(T == 1);
  constexpr int64_t kCell = 16 * kRowColumns * Bits / 8;
  for (int64_t g = 0; g < groups; g += kNearCells) {
    const int64_t some = groups - g < kNearCells ? groups - g : kNearCells;
    for (int quarter = 0; quarter < 4; ++quarter) {
      add_quarter<Bits, R>(w + g * kCell, some, x + g * stride, stride, sums, quarter);
    }
  }
  if constexpr (Bits == 8) {  // what flipping took off
    for (int m = 0; m < R; ++m) {
      RowScale row;
      __builtin_memcpy(&row, x + groups * stride + m, sizeof row);
      const int32x4_t offset = vdupq_n_s32(128 * row.sum);
      sums[m] = {vaddq_s32(sums[m].a, offset), vaddq_s32(sums[m].b, offset), vaddq_s32(sums[m].c, offset),
                 vaddq_s32(sums[m].d, offset)};
    }
  }
}
