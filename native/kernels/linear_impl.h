// Quantization of activations and the matrix products. Included by kernels_impl.h.

static void quantize(const float* x, int64_t k, QuantGroup* out, int64_t stride) {
  for (int64_t at = 0; at < k; at += kGroup, out += stride) {
    const int64_t left = k - at;
    const F a = left >= 16 ? load(x + at) : load_part(x + at, static_cast<int>(left));
    F b = set1(0.0f);
    if (left >= 32) {
      b = load(x + at + 16);
    } else if (left > 16) {
      b = load_part(x + at + 16, static_cast<int>(left - 16));
    }
    const float amax = reduce_max(max(abs(a), abs(b)));
    // Below 1e-30 the inverse would overflow; such a group is zero for every purpose.
    const float inverse = amax < 1e-30f ? 0.0f : 127.0f / amax;
    const int32_t sum = quantize_lanes(mul(a, set1(inverse)), mul(b, set1(inverse)), out->code);
    out->scale = amax < 1e-30f ? 0.0f : amax / 127.0f;
    out->start8 = -128 * sum;
    out->start4 = -8 * sum;
    out->minus = -(out->scale * static_cast<float>(sum));
    int32_t first = 0;
    for (int i = 0; i < 16; ++i) first += out->code[i];
    out->start6[0] = -32 * first;
    out->start6[1] = -32 * (sum - first);
  }
}

// One tile of 16 output rows times R rows of a panel, added to acc; `stride` records between groups.
template <int R>
static inline void tile_int8(const uint8_t* w, const uint16_t* scales, int64_t groups, const QuantGroup* x,
                             int64_t stride, F* acc) {
  for (int64_t g = 0; g < groups; ++g, w += info(Format::int8).cell_bytes(), scales += 16, x += stride) {
    if (g % 2 == 0) prefetch(scales + kAhead / 32);
    I isum[R];
    for (int m = 0; m < R; ++m) isum[m] = start8(x[m].start8);
#pragma GCC unroll 8
    for (int c = 0; c < 8; ++c) {
      prefetch(w + kAhead + 64 * c);  // one at a time: a burst would fill the queue that loads wait in
      const W8 wv = load_w8(w + 64 * c);
      for (int m = 0; m < R; ++m) isum[m] = dot8(isum[m], wv, x[m].code + 4 * c);
    }
    const F ws = load_half(scales);
    for (int m = 0; m < R; ++m) acc[m] = fma(to_float(isum[m]), mul(ws, set1(x[m].scale)), acc[m]);
  }
}

template <int R>
static inline void tile_int4(const uint8_t* w, const uint16_t* scales, int64_t groups, const QuantGroup* x,
                             int64_t stride, F* acc) {
  for (int64_t g = 0; g < groups; ++g, w += info(Format::int4).cell_bytes(), scales += 16, x += stride) {
    if (g % 2 == 0) prefetch(scales + kAhead / 16);
    Acc4 isum[R];
    for (int m = 0; m < R; ++m) isum[m] = start4(x[m].start4);
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      W4 low, high;
      prefetch(w + kAhead + 64 * c);
      load_w4(w + 64 * c, &low, &high);
      for (int m = 0; m < R; ++m) {
        isum[m] = dot4(isum[m], low, x[m].code + 4 * c);
        isum[m] = dot4(isum[m], high, x[m].code + 16 + 4 * c);
      }
    }
    const F ws = load_half(scales);
    for (int m = 0; m < R; ++m) {
      const I total = finish4(isum[m], x[m].start4);
      acc[m] = fma(to_float(total), mul(ws, set1(x[m].scale)), acc[m]);
    }
  }
}

// One tile of any format whose activations are seen by groups.
template <int R>
static inline void tile_quantized(Format format, const uint8_t* w, const uint16_t* scales, int64_t groups,
                                  const QuantGroup* x, int64_t stride, F* acc) {
  switch (format) {
    case Format::int8:
      return tile_int8<R>(w, scales, groups, x, stride, acc);
    case Format::q4_k:
      return tile_blocks<Format::q4_k, R>(w, scales, groups, x, stride, acc);
    case Format::q5_k:
      return tile_blocks<Format::q5_k, R>(w, scales, groups, x, stride, acc);
    case Format::q6_k:
      return tile_blocks<Format::q6_k, R>(w, scales, groups, x, stride, acc);
    case Format::q5_0:
      return tile_blocks<Format::q5_0, R>(w, scales, groups, x, stride, acc);
    case Format::q5_1:
      return tile_blocks<Format::q5_1, R>(w, scales, groups, x, stride, acc);
    case Format::iq4_nl:
      return tile_blocks<Format::iq4_nl, R>(w, scales, groups, x, stride, acc);
    default:
      return tile_int4<R>(w, scales, groups, x, stride, acc);
  }
}

template <int R>
static void rows_quantized(const Matrix& w, const TileRange& range, const GroupRange& groups,
                           const QuantGroup* panel, int64_t stride, float* out, int64_t out_stride,
                           float scale) {
  const FormatInfo& f = info(w.format);
  const int64_t count = groups.end - groups.begin, words = 16 * f.record_words();
  int64_t valid = range.valid;
  for (int64_t t = range.begin; t < range.end; ++t, out += 16, valid -= 16) {
    const int64_t tile = range.which * w.tiles + t;
    const uint8_t* data = w.data + (tile * w.groups + groups.begin) * f.cell_bytes();
    const uint16_t* scales = w.scales + (tile * w.blocks() + groups.begin * kGroup / f.block) * words;
    const int lanes = valid < 16 ? static_cast<int>(valid) : 16;
    F acc[R];
    for (int m = 0; m < R; ++m) {
      acc[m] = groups.begin > 0 ? load(out + m * out_stride, lanes) : set1(0.0f);
    }
    tile_quantized<R>(w.format, data, scales, count, panel, stride, acc);
    for (int m = 0; m < R; ++m) {
      const F sum = groups.end == w.groups ? mul(acc[m], set1(scale)) : acc[m];
      store(out + m * out_stride, sum, lanes);
    }
  }
}

template <int R>
struct Rows {
  static constexpr int value = R;
};

// Calls body(Rows<min(rows, Maximum)>): the row count becomes a constant, its loops unroll.
template <int Maximum, class Body>
static inline void with_rows(int64_t rows, Body body) {
  if constexpr (Maximum > 1) {
    if (rows < Maximum) return with_rows<Maximum - 1>(rows, body);
  }
  body(Rows<Maximum>{});
}

static void linear_quantized(const Matrix& w, const TileRange& range, const GroupRange& groups,
                             const QuantGroup* panel, int64_t rows, float* out, int64_t out_stride,
                             float scale) {
  if (own_products(w, range, groups, panel, rows, out, out_stride, scale)) return;
  panel += groups.begin * rows;
  const bool nibbles = w.format == Format::int4 || w.format == Format::q4_k;
  // Blocks of about the same size.
  const int64_t most = nibbles ? kNibbleRows : kRowBlock, blocks = (rows + most - 1) / most,
                size = (rows + blocks - 1) / blocks;
  for (int64_t m = 0; m < rows; m += size) {
    with_rows<(kNibbleRows > kRowBlock ? kNibbleRows : kRowBlock)>(
        size < rows - m ? size : rows - m, [&](auto block) {
          rows_quantized<block.value>(w, range, groups, panel + m, rows, out + m * out_stride, out_stride,
                                      scale);
        });
  }
}

template <int R>
static void rows_bf16(const Matrix& w, const TileRange& range, const float* x, int64_t x_stride, float* out,
                      int64_t out_stride, float scale) {
  const int64_t tile = w.groups * kGroup * 16;
  const uint16_t* base = reinterpret_cast<const uint16_t*>(w.data);
  int64_t valid = range.valid;
  for (int64_t t = range.begin; t < range.end; ++t, out += 16, valid -= 16) {
    const uint16_t* data = base + (range.which * w.tiles + t) * tile;
    F even[R], odd[R];
    for (int m = 0; m < R; ++m) even[m] = odd[m] = set1(0.0f);
    int64_t k = 0;
    for (; k + 2 <= w.k; k += 2) {
      prefetch(data + 16 * k + kAhead / 2);
      const F w0 = load_bf16(data + 16 * k), w1 = load_bf16(data + 16 * k + 16);
      for (int m = 0; m < R; ++m) {
        even[m] = fma(set1(x[m * x_stride + k]), w0, even[m]);
        odd[m] = fma(set1(x[m * x_stride + k + 1]), w1, odd[m]);
      }
    }
    if (k < w.k) {
      const F w0 = load_bf16(data + 16 * k);
      for (int m = 0; m < R; ++m) even[m] = fma(set1(x[m * x_stride + k]), w0, even[m]);
    }
    const int lanes = valid < 16 ? static_cast<int>(valid) : 16;
    for (int m = 0; m < R; ++m) {
      store(out + m * out_stride, mul(add(even[m], odd[m]), set1(scale)), lanes);
    }
  }
}

static void linear_bf16(const Matrix& w, const TileRange& range, const float* x, int64_t x_stride,
                        int64_t rows, float* out, int64_t out_stride, float scale) {
  for (int64_t m = 0; m < rows; m += kRowBlock) {
    with_rows<kRowBlock>(rows - m, [&](auto block) {
      rows_bf16<block.value>(w, range, x + m * x_stride, x_stride, out + m * out_stride, out_stride, scale);
    });
  }
}
