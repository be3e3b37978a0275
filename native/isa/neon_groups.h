// int8 and int4 in NEON: four rows of a tile at a time, a group's columns of them in eight registers, so that
// up to eight rows of activations share each load and unpacking. Included behind kernels_impl.h.

// A sum that begins at the bits of 1.5 * 2^23 is, as a float, that plus the sum: converting takes a
// subtraction, which is exact, and no instruction that only one pipe has. Sums of a group are below 2^20.
constexpr float kOrigin = 0x1.8p23f;
constexpr int32_t kOriginBits = 0x4B400000;
static_assert(__builtin_bit_cast(int32_t, kOrigin) == kOriginBits);
constexpr int64_t kQuarterGroups = 16;  // groups that each quarter of a tile walks before the next one does

// Columns of a group, of four rows, as signed codes; of int4 with 8 added.
template <Format Kind>
static inline void unpack_group(const uint8_t* w, int8x16_t (&codes)[8]) {
#pragma GCC unroll 8
  for (int i = 0; i < (Kind == Format::int8 ? 8 : 4); ++i) {
    const int8x16_t bytes = load_codes(w + 64 * i);
    if constexpr (Kind == Format::int8) {
      codes[i] = flipped(bytes);
    } else {
      codes[i] = low_nibbles(bytes);
      codes[4 + i] = high_nibbles(bytes);
    }
  }
}

// Where a group's sums begin.
template <Format Kind>
static inline int32x4_t group_start(const QuantGroup& x) {
  int32_t start = kOriginBits;
  if constexpr (Kind == Format::int4) {
    start += x.start4;
  } else {
    // Else the compiler would copy a register, which takes a vector pipe; broadcasting takes another.
    __asm__("" : "+r"(start));
  }
  return vdupq_n_s32(start);
}

// Calls what a quarter's walk will read kAhead bytes on, a group at a time.
template <Format Kind>
static inline void fetch_group(const uint8_t* w, const uint16_t* scales, int64_t g) {
  constexpr int kLines = Kind == Format::int8 ? 8 : 4;
  if (g % 2 == 0) prefetch(scales + kAhead / (4 * kLines));
#pragma GCC unroll 8
  for (int line = 0; line < kLines; ++line) prefetch(w + kAhead + 64 * line);
}

// Rows 4 * quarter .. of a tile times R rows of a panel, added to acc [R][16]. Fetch: as the first of a
// tile's quarters.
template <Format Kind, int R, bool Fetch>
static inline void walk_quarter(const uint8_t* w, const uint16_t* scales, int64_t groups, const QuantGroup* x,
                                int64_t stride, float* acc, int quarter) {
  float32x4_t sum[R];
  acc += 4 * quarter;
#pragma GCC unroll 8
  for (int m = 0; m < R; ++m) sum[m] = vld1q_f32(acc + 16 * m);
  const float32x4_t origin = vdupq_n_f32(kOrigin);
  for (int64_t g = 0; g < groups; ++g, w += info(Kind).cell_bytes(), scales += 16, x += stride) {
    if constexpr (Fetch) fetch_group<Kind>(w, scales, g);
    int8x16_t codes[8];
    unpack_group<Kind>(w + 16 * quarter, codes);
    const float32x4_t ws = widen_halves(scales + 4 * quarter);
    const auto join = [&](float32x4_t to, int32x4_t dots, const QuantGroup& from) {
      const float32x4_t isum = vsubq_f32(vreinterpretq_f32_s32(dots), origin);
      return vfmaq_f32(to, isum, vmulq_n_f32(ws, from.scale));
    };
    constexpr bool kSmall = Kind == Format::int4;
#pragma GCC unroll 4
    for (int m = 0; m + 2 <= R; m += 2) {  // two chains at a time, for processors that keep to the order
      int32x4_t a = group_start<Kind>(x[m]), b = group_start<Kind>(x[m + 1]);
      dot32_twice<kSmall>(a, b, codes, x[m].code, x[m + 1].code);
      sum[m] = join(sum[m], a, x[m]);
      sum[m + 1] = join(sum[m + 1], b, x[m + 1]);
    }
    if constexpr (R % 2 == 1) {
      const QuantGroup& last = x[R - 1];
      const int32x4_t dots =
          dot32<kSmall>(group_start<Kind>(last), codes, load_codes(last.code), load_codes(last.code + 16));
      sum[R - 1] = join(sum[R - 1], dots, last);
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < R; ++m) vst1q_f32(acc + 16 * m, sum[m]);
}

// The rows' chains so far, where the range of groups is not the first: from out into acc [R][16].
template <int R>
static inline void load_chains(const GroupRange& groups, const float* out, int64_t out_stride, int lanes,
                               float* acc) {
  for (int m = 0; m < R; ++m) {
    store(acc + 16 * m, groups.begin > 0 ? load(out + m * out_stride, lanes) : set1(0.0f));
  }
}
template <int R>
static inline void store_chains(bool last, const float* acc, float* out, int64_t out_stride, int lanes,
                                float scale) {
  for (int m = 0; m < R; ++m) {
    const F sum = load(acc + 16 * m);
    store(out + m * out_stride, last ? mul(sum, set1(scale)) : sum, lanes);
  }
}

template <Format Kind, int R>
static void block_of_groups(const Matrix& w, const TileRange& range, const GroupRange& groups,
                            const QuantGroup* panel, int64_t stride, float* out, int64_t out_stride,
                            float scale) {
  const int64_t count = groups.end - groups.begin;
  int64_t valid = range.valid;
  for (int64_t t = range.begin; t < range.end; ++t, out += 16, valid -= 16) {
    const int64_t at = (range.which * w.tiles + t) * w.groups + groups.begin;
    const int lanes = valid < 16 ? static_cast<int>(valid) : 16;
    alignas(64) float acc[R * 16];
    load_chains<R>(groups, out, out_stride, lanes, acc);
    for (int64_t g = 0; g < count; g += kQuarterGroups) {
      const int64_t some = count - g < kQuarterGroups ? count - g : kQuarterGroups;
      const uint8_t* data = w.data + (at + g) * info(Kind).cell_bytes();
      const uint16_t* scales = w.scales + (at + g) * 16;
      walk_quarter<Kind, R, true>(data, scales, some, panel + g * stride, stride, acc, 0);
      for (int quarter = 1; quarter < 4; ++quarter) {
        walk_quarter<Kind, R, false>(data, scales, some, panel + g * stride, stride, acc, quarter);
      }
    }
    store_chains<R>(groups.end == w.groups, acc, out, out_stride, lanes, scale);
  }
}

// All rows of a panel, at most eight for each load of weights; false: not a format of this file.
static bool rows_of_groups(const Matrix& w, const TileRange& range, const GroupRange& groups,
                           const QuantGroup* panel, int64_t rows, float* out, int64_t out_stride,
                           float scale) {
  if (w.format != Format::int8 && w.format != Format::int4) return false;
  panel += groups.begin * rows;
  with_rows<kPanelRows>(rows, [&](auto block) {
    constexpr int R = block.value;
    if (w.format == Format::int8) {
      block_of_groups<Format::int8, R>(w, range, groups, panel, rows, out, out_stride, scale);
    } else {
      block_of_groups<Format::int4, R>(w, range, groups, panel, rows, out, out_stride, scale);
    }
  });
  return true;
}
