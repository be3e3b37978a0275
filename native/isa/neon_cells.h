// Products of the block formats in NEON. Included behind what defines dot4.

// Four rows of a cell's word, as codes or as what they are looked up as.
template <Cells C, int Word>
static inline int8x16_t cell_rows(const uint8_t* cell, int quarter) {
  const int8x16_t pairs = load_codes(cell + 64 * (high_vectors(C) + Word % 4) + 16 * quarter);
  const int8x16_t low = Word < 4 ? low_nibbles(pairs) : high_nibbles(pairs);
  if constexpr (C == Cells::looked_up) return vqtbl1q_s8(vld1q_s8(kLookedUp), vreinterpretq_u8_s8(low));
  if constexpr (C == Cells::five || C == Cells::six) {
    // Where the word's bits stand, and where they belong: above the nibble.
    constexpr int kAt = C == Cells::five ? Word : 2 * (Word % 4);
    const uint8x16_t bits = vld1q_u8(cell + (C == Cells::six ? 64 * (Word / 4) : 0) + 16 * quarter);
    uint8x16_t moved = bits;
    if constexpr (kAt < 4) moved = vshlq_n_u8(bits, 4 - kAt);
    if constexpr (kAt > 4) moved = vshrq_n_u8(bits, kAt - 4);
    const uint8x16_t high = vandq_u8(moved, vdupq_n_u8(C == Cells::five ? 16 : 48));
    return vorrq_s8(low, vreinterpretq_s8_u8(high));
  }
  return low;
}

template <Cells C, int R, int Word>
static inline void add_word(const uint8_t* cell, const QuantGroup* x, I* sums) {
  const Codes codes = {cell_rows<C, Word>(cell, 0), cell_rows<C, Word>(cell, 1), cell_rows<C, Word>(cell, 2),
                       cell_rows<C, Word>(cell, 3)};
  I* const to = C == Cells::six && Word >= 4 ? sums + R : sums;
#pragma GCC unroll 8
  for (int m = 0; m < R; ++m) to[m] = dot4(to[m], codes, x[m].code + 4 * Word);
}
template <Cells C, int R, int... Words>
static inline void add_words(const uint8_t* cell, const QuantGroup* x, I* sums) {
  (add_word<C, R, Words>(cell, x, sums), ...);
}
template <Cells C, int R>
static inline void add_cell(const uint8_t* cell, const QuantGroup* x, I* sums) {
  for (int i = 0; i < 4 + high_vectors(C); ++i) prefetch(cell + kAhead + 64 * i);
  add_words<C, R, 0, 4, 1, 5, 2, 6, 3, 7>(cell, x, sums);
}
