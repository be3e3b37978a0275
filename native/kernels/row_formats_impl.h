// The row formats: activations as int8 codes of one scale for all of a row, products as exact integer sums.
// Included by kernels_impl.h, behind linear_impl.h.

static inline F load_until(const float* x, int64_t left) {
  if (left >= 16) return load(x);
  return left > 0 ? load_part(x, static_cast<int>(left)) : set1(0.0f);
}

// Whole numbers from -128 to 127 as codes; returns their sum.
static inline int32_t store_codes(CodeLine* out, const F* q) {
  return quantize_lanes(q[0], q[1], out->code) + quantize_lanes(q[2], q[3], out->code + 32);
}

static inline void store_scale(CodeLine* out, int32_t sum, float scale) {
  const RowScale row{sum, scale};
  __builtin_memcpy(out, &row, sizeof row);
}

// round(x / scale), at least -128 and at most 127; NaN is -128.
static inline F rounded(F x, F scale) {
  return round_even(min(max(div(x, scale), set1(-128.0f)), set1(127.0f)));
}

static void quantize_halves(const float* x, int64_t k, CodeLine* out, int64_t stride) {
  constexpr float kMost = 32512.0f;  // 127 * 256
  F top = set1(0.0f);
  for (int64_t at = 0; at < k; at += 16) top = max(top, abs(load_until(x + at, k - at)));
  const float amax = reduce_max(top);
  const F inverse = set1(amax < 1e-30f ? 0.0f : kMost / amax);
  const float scale = amax < 1e-30f ? 0.0f : amax / kMost;
  int32_t high_sum = 0, low_sum = 0;
  for (int64_t at = 0; at < k; at += kRowColumns, out += stride) {
    F high[4], low[4];
    for (int i = 0; i < 4; ++i) {
      const int64_t first = at + 16 * i;
      const F v = mul(load_until(x + first, k - first), inverse);
      const F q = round_even(min(max(v, set1(-kMost)), set1(kMost)));
      // A quarter of a low code's step above: halves go up, so that low codes are -128 to 127.
      high[i] = round_even(add(mul(q, set1(1.0f / 256)), set1(1.0f / 1024)));
      low[i] = sub(q, mul(high[i], set1(256.0f)));
    }
    high_sum += store_codes(out, high);
    low_sum += store_codes(out + 1, low);
  }
  store_scale(out, high_sum, scale);
  store_scale(out + 1, low_sum, scale);
}

static void quantize_row(const float* x, int64_t k, float scale, CodeLine* out, int64_t stride) {
  if (!(scale > 0.0f)) return quantize_halves(x, k, out, stride);
  int32_t sum = 0;
  for (int64_t at = 0; at < k; at += kRowColumns, out += stride) {
    F q[4];
    for (int i = 0; i < 4; ++i) {
      const int64_t first = at + 16 * i;
      q[i] = rounded(load_until(x + first, k - first), set1(scale));
    }
    sum += store_codes(out, q);
  }
  store_scale(out, sum, scale);
}

// Stores the products of a tile, given its sums of codes, high half before low half of each row.
static inline void store_products(const Matrix& w, int64_t tile, const I* sum, const RowScale* ends,
                                  int64_t code_rows, float* out, int64_t out_stride, int lanes, float scale) {
  const F ws = load(w.row_scales + 16 * tile), step = set1(w.output_scale);
  const int64_t halves = w.halves();
  for (int64_t m = 0; m < code_rows; m += halves, out += out_stride) {
    F y = to_float(sum[m]);
    if (halves == 2) y = fma(y, set1(256.0f), to_float(sum[m + 1]));
    y = mul(y, mul(ws, set1(ends[m].scale)));
    if (w.output_scale > 0.0f) y = mul(rounded(y, step), step);
    store(out, mul(y, set1(scale)), lanes);
  }
}

// Two tiles share each load of activations where products take longer than the weights: 2-bit codes, five
// rows or more. Elsewhere, and with tiles that end soon, two streams of weights cost more than the loads.
constexpr int kPairFrom = 5;
constexpr int64_t kPairBytes = 16384;

// R code rows of a panel with `code_rows`.
template <int Bits, int R>
static void tiles_of_rows(const Matrix& w, const TileRange& range, const CodeLine* panel, int64_t code_rows,
                          float* out, int64_t out_stride, float scale) {
  const int64_t cell = info(w.format).cell_bytes();
  RowScale ends[R];
  for (int m = 0; m < R; ++m) __builtin_memcpy(&ends[m], panel + w.groups * code_rows + m, sizeof ends[m]);
  int64_t valid = range.valid, tile = range.which * w.tiles + range.begin, t = range.begin;
  // Stored codes have 2^(Bits - 1) added.
  if constexpr (Bits == 2 && R >= kPairFrom && R <= kPairRows) {
    const bool long_tiles = w.groups * cell >= kPairBytes;
    for (; long_tiles && t + 2 <= range.end; t += 2, tile += 2, out += 32, valid -= 32) {
      I sum[2 * R];
      for (int m = 0; m < 2 * R; ++m) sum[m] = same_sums(-(1 << (Bits - 1)) * ends[m % R].sum);
      add_codes<Bits, R, 2>(w.data + tile * w.groups * cell, w.groups * cell, w.groups, panel, code_rows,
                            sum);
      store_products(w, tile, sum, ends, R, out, out_stride, 16, scale);
      store_products(w, tile + 1, sum + R, ends, R, out + 16, out_stride,
                     valid < 32 ? static_cast<int>(valid - 16) : 16, scale);
    }
  }
  for (; t < range.end; ++t, ++tile, out += 16, valid -= 16) {
    I sum[R];
    for (int m = 0; m < R; ++m) sum[m] = same_sums(-(1 << (Bits - 1)) * ends[m].sum);
    add_codes<Bits, R, 1>(w.data + tile * w.groups * cell, w.groups * cell, w.groups, panel, code_rows, sum);
    store_products(w, tile, sum, ends, R, out, out_stride, valid < 16 ? static_cast<int>(valid) : 16, scale);
  }
}

template <int Bits>
static void linear_bits(const Matrix& w, const TileRange& range, const CodeLine* panel, int64_t rows,
                        float* out, int64_t out_stride, float scale) {
  const int64_t halves = w.halves(), code_rows = rows * halves;
  // Blocks of about the same size, both halves of a row in one; a tile is near while its blocks are
  // multiplied.
  const int64_t blocks = (code_rows + kCodeRows - 1) / kCodeRows,
                size = (rows + blocks - 1) / blocks * halves;
  const int64_t step = blocks == 1 ? range.end - range.begin : 1;
  for (int64_t t = range.begin; t < range.end; t += step, out += 16 * step) {
    const TileRange some{range.which, t, t + step, range.valid - 16 * (t - range.begin)};
    for (int64_t m = 0; m < code_rows; m += size) {
      with_rows<kCodeRows>(size < code_rows - m ? size : code_rows - m, [&](auto block) {
        tiles_of_rows<Bits, block.value>(w, some, panel + m, code_rows, out + m / halves * out_stride,
                                         out_stride, scale);
      });
    }
  }
}

static void linear_rows(const Matrix& w, const TileRange& range, const CodeLine* panel, int64_t rows,
                        float* out, int64_t out_stride, float scale) {
  switch (info(w.format).bits) {
    case 2:
      return linear_bits<2>(w, range, panel, rows, out, out_stride, scale);
    case 4:
      return linear_bits<4>(w, range, panel, rows, out, out_stride, scale);
    default:
      return linear_bits<8>(w, range, panel, rows, out, out_stride, scale);
  }
}

// A row of a matrix in a row format.
static inline void embed_codes(const Matrix& w, int64_t row, float scale, float* out) {
  const int bits = info(w.format).bits, each = 8 / bits;
  const int64_t t = row / 16, r = row % 16, cell = info(w.format).cell_bytes();
  const uint8_t* data = w.data + t * w.groups * cell + 4 * r;
  const float ws = w.row_scales[row];
  for (int64_t i = 0; i < w.k; ++i) {
    const int word = static_cast<int>(i % kRowColumns / 4);
    const int byte = data[i / kRowColumns * cell + word / each * 64 + i % 4];
    const int code = (byte >> (word % each * bits) & ((1 << bits) - 1)) - (1 << (bits - 1));
    out[i] = static_cast<float>(code) * ws * scale;
  }
}

// Columns of a row of a table in a row format.
static inline void lookup_codes(const RowTable& table, int64_t row, int64_t column, int64_t width,
                                float scale, float* out) {
  const int bits = info(table.format).bits, each = 8 / bits;
  const uint8_t* data = static_cast<const uint8_t*>(table.data) + row * table.stride;
  const float* scales = table.row_scales + row * table.blocks;
  const int64_t block = table.width / table.blocks, stop = column + width;
  for (int64_t i = column; i < stop;) {
    const float ws = scales[i / block];
    const int64_t next = (i / block + 1) * block, end = next < stop ? next : stop;
    for (; i < end; ++i) {
      const int field = data[i / each] >> (i % each * bits) & ((1 << bits) - 1);
      const int code = bits == 8 ? static_cast<int8_t>(field) : field - (1 << (bits - 1));
      *out++ = static_cast<float>(code) * ws * scale;
    }
  }
}
