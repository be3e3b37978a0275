// int8 and int4 by smmla and usmmla, which multiply two rows of weights by two rows of activations, eight
// columns of each. Sums of a pair stay as the instruction leaves them, [row 0 x 0, row 0 x 1, row 1 x 0, row
// 1 x 1], through conversion and scaling up to a segment's end: the same operations on the same numbers, so
// the same bits. Included behind neon_groups.h.

// Two rows of a panel, interleaved, once for all tiles of a range.
struct alignas(16) RowPair {
  int8_t code[4][16];  // eight columns of each row
  float scale[4];      // of the two rows, twice
  int32_t start[4];    // where their sums begin
};
constexpr int64_t kSegment = 32;  // groups interleaved at a time: 12 KiB of eight rows

template <Format Kind>
static inline void interleave(const QuantGroup* x, const QuantGroup* y, RowPair* out) {
  const int8x16_t zero = vdupq_n_s8(0);
  for (int i = 0; i < 2; ++i) {
    const int64x2_t a = vreinterpretq_s64_s8(load_codes(x->code + 16 * i));
    const int64x2_t b = vreinterpretq_s64_s8(y == nullptr ? zero : load_codes(y->code + 16 * i));
    vst1q_s8(out->code[2 * i], vreinterpretq_s8_s64(vzip1q_s64(a, b)));
    vst1q_s8(out->code[2 * i + 1], vreinterpretq_s8_s64(vzip2q_s64(a, b)));
  }
  constexpr bool kBytes = Kind == Format::int8;
  for (int i = 0; i < 4; ++i) {
    const QuantGroup* row = i % 2 == 0 ? x : y;
    out->scale[i] = row == nullptr ? 0.0f : row->scale;
    out->start[i] = kOriginBits + (row == nullptr ? 0 : kBytes ? row->start8 : row->start4);
  }
}

// Columns of a group, of four rows: eight columns of rows 0 and 1, and of rows 2 and 3, and so on.
template <Format Kind>
static inline void unpack_pairs(const uint8_t* w, int8x16_t (&codes)[8]) {
  constexpr int kSteps = Kind == Format::int8 ? 4 : 2;
#pragma GCC unroll 4
  for (int i = 0; i < kSteps; ++i) {
    const int32x4_t a = vreinterpretq_s32_s8(load_codes(w + 128 * i));
    const int32x4_t b = vreinterpretq_s32_s8(load_codes(w + 128 * i + 64));
    const int8x16_t upper = vreinterpretq_s8_s32(vzip1q_s32(a, b)),
                    lower = vreinterpretq_s8_s32(vzip2q_s32(a, b));
    if constexpr (Kind == Format::int8) {
      codes[2 * i] = upper, codes[2 * i + 1] = lower;
    } else {
      codes[2 * i] = low_nibbles(upper), codes[2 * i + 1] = low_nibbles(lower);
      codes[4 + 2 * i] = high_nibbles(upper), codes[5 + 2 * i] = high_nibbles(lower);
    }
  }
}

template <Format Kind>
static inline int32x4_t matmul(int32x4_t sum, int8x16_t w, int8x16_t x) {
  if constexpr (Kind == Format::int8) return vusmmlaq_s32(sum, vreinterpretq_u8_s8(w), x);
  return vmmlaq_s32(sum, w, x);
}

// Rows 4 * quarter .. of a tile times P pairs of rows, added to acc [2 P][16]. Behind the segment's end comes
// what lies `skip` groups on. Fetch: as the first of a tile's quarters.
template <Format Kind, int P, bool Fetch>
static inline void walk_pairs(const uint8_t* w, const uint16_t* scales, int64_t groups, const RowPair* x,
                              float* acc, int quarter, int64_t skip) {
  constexpr int64_t kCell = info(Kind).cell_bytes();
  float32x4_t upper[P], lower[P];
  acc += 4 * quarter;
#pragma GCC unroll 4
  for (int p = 0; p < P; ++p) {
    const float32x4_t a = vld1q_f32(acc + 32 * p), b = vld1q_f32(acc + 32 * p + 16);
    upper[p] = vzip1q_f32(a, b), lower[p] = vzip2q_f32(a, b);
  }
  const float32x4_t origin = vdupq_n_f32(kOrigin);
  for (int64_t g = 0; g < groups; ++g, w += kCell, scales += 16, x += P) {
    if constexpr (Fetch) {
      const int64_t jump = g + kAhead / kCell < groups ? 0 : skip;
      fetch_group<Kind>(w + jump * kCell, scales + jump * 16, g);
    }
    int8x16_t codes[8];
    unpack_pairs<Kind>(w + 16 * quarter, codes);
    const float32x4_t ws = widen_halves(scales + 4 * quarter);
    const float32x4_t ws_upper = vzip1q_f32(ws, ws), ws_lower = vzip2q_f32(ws, ws);
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) {
      const int32_t* start = x[p].start;
      int32x4_t a = vld1q_s32(start);
      __asm__("" : "+r"(start));  // else the compiler would copy a register, which takes a vector pipe
      int32x4_t b = vld1q_s32(start);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const int8x16_t columns = load_codes(x[p].code[i]);
        a = matmul<Kind>(a, codes[2 * i], columns);
        b = matmul<Kind>(b, codes[2 * i + 1], columns);
      }
      const float32x4_t xs = vld1q_f32(x[p].scale);
      const float32x4_t isum_a = vsubq_f32(vreinterpretq_f32_s32(a), origin);
      const float32x4_t isum_b = vsubq_f32(vreinterpretq_f32_s32(b), origin);
      upper[p] = vfmaq_f32(upper[p], isum_a, vmulq_f32(ws_upper, xs));
      lower[p] = vfmaq_f32(lower[p], isum_b, vmulq_f32(ws_lower, xs));
    }
  }
#pragma GCC unroll 4
  for (int p = 0; p < P; ++p) {
    vst1q_f32(acc + 32 * p, vuzp1q_f32(upper[p], lower[p]));
    vst1q_f32(acc + 32 * p + 16, vuzp2q_f32(upper[p], lower[p]));
  }
}

// A segment of a panel of R rows, for all tiles of a range.
template <Format Kind, int R>
static void segment_of_pairs(const Matrix& w, const TileRange& range, const GroupRange& groups,
                             const QuantGroup* panel, float* out, int64_t out_stride, float scale) {
  constexpr int kPairs = (R + 1) / 2;
  const int64_t count = groups.end - groups.begin, skip = w.groups - count;
  RowPair x[kSegment * kPairs];
  for (int64_t g = 0; g < count; ++g) {
    const QuantGroup* rows = panel + g * R;
    for (int p = 0; p < kPairs; ++p) {
      interleave<Kind>(rows + 2 * p, 2 * p + 1 < R ? rows + 2 * p + 1 : nullptr, x + g * kPairs + p);
    }
  }
  int64_t valid = range.valid;
  for (int64_t t = range.begin; t < range.end; ++t, out += 16, valid -= 16) {
    const int64_t at = (range.which * w.tiles + t) * w.groups + groups.begin;
    const int lanes = valid < 16 ? static_cast<int>(valid) : 16;
    alignas(64) float acc[2 * kPairs * 16] = {};
    load_chains<R>(groups, out, out_stride, lanes, acc);
    for (int64_t g = 0; g < count; g += kQuarterGroups) {
      const int64_t some = count - g < kQuarterGroups ? count - g : kQuarterGroups;
      const uint8_t* data = w.data + (at + g) * info(Kind).cell_bytes();
      const uint16_t* scales = w.scales + (at + g) * 16;
      const int64_t jump = g + some < count ? 0 : skip;
      walk_pairs<Kind, kPairs, true>(data, scales, some, x + g * kPairs, acc, 0, jump);
      for (int quarter = 1; quarter < 4; ++quarter) {
        walk_pairs<Kind, kPairs, false>(data, scales, some, x + g * kPairs, acc, quarter, jump);
      }
    }
    store_chains<R>(groups.end == w.groups, acc, out, out_stride, lanes, scale);
  }
}

// All rows of a panel, two at a time; an odd one beside zeros. False: not a format of this file.
static bool pairs_of_groups(const Matrix& w, const TileRange& range, const GroupRange& groups,
                            const QuantGroup* panel, int64_t rows, float* out, int64_t out_stride,
                            float scale) {
  if (w.format != Format::int8 && w.format != Format::int4) return false;
  for (int64_t g = groups.begin; g < groups.end; g += kSegment) {
    const GroupRange segment{g, g + kSegment < groups.end ? g + kSegment : groups.end};
    with_rows<kPanelRows>(rows, [&](auto block) {
      constexpr int R = block.value;
      const QuantGroup* from = panel + g * rows;
      if (w.format == Format::int8) {
        segment_of_pairs<Format::int8, R>(w, range, segment, from, out, out_stride, scale);
      } else {
        segment_of_pairs<Format::int4, R>(w, range, segment, from, out, out_stride, scale);
      }
    });
  }
  return true;
}
