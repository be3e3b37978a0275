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

static inline void store_scale(CodeLine* out, int32_t sum, float scale, int32_t size = 0) {
  const RowScale row{sum, scale, size};
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
  F size = set1(0.0f);
  CodeLine* behind = out + stride / 2;
  for (int64_t at = 0; at < k; at += kRowColumns, out += stride, behind += stride) {
    F high[4], low[4];
    for (int i = 0; i < 4; ++i) {
      const int64_t first = at + 16 * i;
      const F v = mul(load_until(x + first, k - first), inverse);
      const F q = round_even(min(max(v, set1(-kMost)), set1(kMost)));
      // A quarter of a low code's step above: halves go up, so that low codes are -128 to 127.
      high[i] = round_even(add(mul(q, set1(1.0f / 256)), set1(1.0f / 1024)));
      low[i] = sub(q, mul(high[i], set1(256.0f)));
      size = add(size, abs(low[i]));
    }
    high_sum += store_codes(out, high);
    low_sum += store_codes(behind, low);
  }
  store_scale(out, high_sum, scale);
  store_scale(behind, low_sum, scale, static_cast<int32_t>(reduce_add(size)));
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

// A tile's outputs of a row: sums of codes, of its high and its low half where it has two, times scales.
static inline F products(const Matrix& w, F ws, F sum, F low, float code_scale, float scale) {
  if (w.halves() == 2) sum = fma(sum, set1(256.0f), low);
  F y = mul(sum, mul(ws, set1(code_scale)));
  if (w.output_scale > 0.0f) y = mul(rounded(y, set1(w.output_scale)), set1(w.output_scale));
  return mul(y, set1(scale));
}

// Sums [halves, R] of a tile.
template <int R>
static inline void store_products(const Matrix& w, int64_t tile, const I* sum, const RowScale* ends,
                                  float* out, int64_t out_stride, int lanes, float scale) {
  const F ws = load(w.row_scales + 16 * tile);
  for (int m = 0; m < R; ++m, out += out_stride) {
    const F low = w.halves() == 2 ? to_float(sum[R + m]) : set1(0.0f);
    store(out, products(w, ws, to_float(sum[m]), low, ends[m].scale, scale), lanes);
  }
}

// Sums of R rows of codes; stored codes have 2^(Bits - 1) added.
template <int Bits, int R, int T = 1>
static inline void sum_codes(const Matrix& w, int64_t tile, const CodeLine* panel, int64_t stride,
                             const RowScale* ends, I* sum) {
  const int64_t bytes = w.groups * info(w.format).cell_bytes();
  for (int m = 0; m < R * T; ++m) sum[m] = same_sums(-(1 << (Bits - 1)) * ends[m % R].sum);
  add_codes<Bits, R, T>(w.data + tile * bytes, bytes, w.groups, panel, stride, sum);
}

template <int R>
static inline void load_ends(const Matrix& w, const CodeLine* panel, int64_t stride, RowScale* ends) {
  for (int m = 0; m < R; ++m) __builtin_memcpy(&ends[m], panel + w.groups * stride + m, sizeof ends[m]);
}

// Two tiles share each load of activations where products take longer than the weights: 2-bit codes, five
// rows or more. Elsewhere, and with tiles that end soon, two streams of weights cost more than the loads.
constexpr int kPairFrom = 5;
constexpr int64_t kPairBytes = 16384;

// R rows of a panel with `rows`, of one half.
template <int Bits, int R>
static void tiles_of_rows(const Matrix& w, const TileRange& range, const CodeLine* panel, int64_t rows,
                          float* out, int64_t out_stride, float scale) {
  RowScale ends[R];
  load_ends<R>(w, panel, rows, ends);
  int64_t valid = range.valid, tile = range.which * w.tiles + range.begin, t = range.begin;
  if constexpr (Bits == 2 && R >= kPairFrom && R <= kPairRows) {
    const bool long_tiles = w.groups * info(w.format).cell_bytes() >= kPairBytes;
    for (; long_tiles && t + 2 <= range.end; t += 2, tile += 2, out += 32, valid -= 32) {
      I sum[2 * R];
      sum_codes<Bits, R, 2>(w, tile, panel, rows, ends, sum);
      store_products<R>(w, tile, sum, ends, out, out_stride, 16, scale);
      store_products<R>(w, tile + 1, sum + R, ends, out + 16, out_stride,
                        valid < 32 ? static_cast<int>(valid - 16) : 16, scale);
    }
  }
  for (; t < range.end; ++t, ++tile, out += 16, valid -= 16) {
    I sum[R];
    sum_codes<Bits, R>(w, tile, panel, rows, ends, sum);
    store_products<R>(w, tile, sum, ends, out, out_stride, valid < 16 ? static_cast<int>(valid) : 16, scale);
  }
}

// The same with two halves. Whole: R is `rows`, and both halves share each load of weights.
template <int Bits, int R, bool Whole>
static void tiles_of_halves(const Matrix& w, const TileRange& range, const CodeLine* panel, int64_t rows,
                            float* out, int64_t out_stride, float scale) {
  RowScale ends[2 * R];
  load_ends<R>(w, panel, 2 * rows, ends);
  load_ends<R>(w, panel + rows, 2 * rows, ends + R);
  int64_t valid = range.valid, tile = range.which * w.tiles + range.begin;
  for (int64_t t = range.begin; t < range.end; ++t, ++tile, out += 16, valid -= 16) {
    I sum[2 * R];
    if constexpr (Whole) {
      sum_codes<Bits, 2 * R>(w, tile, panel, 2 * rows, ends, sum);
    } else {
      sum_codes<Bits, R>(w, tile, panel, 2 * rows, ends, sum);
      sum_codes<Bits, R>(w, tile, panel + rows, 2 * rows, ends + R, sum + R);
    }
    store_products<R>(w, tile, sum, ends, out, out_stride, valid < 16 ? static_cast<int>(valid) : 16, scale);
  }
}

static inline float read_shared(const float* at) {
  float value;
  __atomic_load(at, &value, __ATOMIC_RELAXED);
  return value;
}

static inline void raise_shared(float* at, float value) {
  float before = read_shared(at);
  while (before < value &&
         !__atomic_compare_exchange(at, &before, &value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
}

// What an output must exceed to be the largest one of its row, behind the soft cap too. Up to 4 cap tanh has
// a slope of 1.3e-3, so outputs that differ by cap / 256 differ by 40 times its rounding errors.
static inline float to_exceed(float best, float cap) {
  const float size = best < 0.0f ? -best : best;
  if (cap > 0.0f) return size < 4.0f * cap ? best - cap / 256.0f : -__builtin_inff();
  return best - (size * 0x1p-20f + 1e-30f);
}

// High halves first. A sum of low ones is at most 2^(Bits - 1) times their size, and every step from sums to
// outputs keeps order: where that bound stays below the largest output so far, it stands in the output's
// place.
template <int Bits, int R>
static void largest_of_halves(const Matrix& w, const TileRange& range, const CodeLine* panel, int64_t rows,
                              float* out, int64_t out_stride, float scale, const Largest& largest,
                              float* seen) {
  RowScale ends[2 * R];
  load_ends<R>(w, panel, 2 * rows, ends);
  load_ends<R>(w, panel + rows, 2 * rows, ends + R);
  int64_t valid = range.valid, tile = range.which * w.tiles + range.begin;
  for (int64_t t = range.begin; t < range.end; ++t, ++tile, out += 16, valid -= 16) {
    const int lanes = valid < 16 ? static_cast<int>(valid) : 16;
    const F ws = load(w.row_scales + 16 * tile);
    I sum[2 * R];
    sum_codes<Bits, R>(w, tile, panel, 2 * rows, ends, sum);
    bool needed = false;
    for (int m = 0; m < R; ++m) {
      const F room = set1(static_cast<float>(ends[R + m].size << (Bits - 1)));
      const F bound = products(w, ws, to_float(sum[m]), room, ends[m].scale, scale);
      needed = needed || any_less(set1(to_exceed(read_shared(seen + m), largest.cap)), bound);
      store(out + m * out_stride, bound, lanes);
    }
    if (!needed) continue;
    sum_codes<Bits, R>(w, tile, panel + rows, 2 * rows, ends + R, sum + R);
    store_products<R>(w, tile, sum, ends, out, out_stride, lanes, scale);
    for (int m = 0; m < R && lanes == 16; ++m) raise_shared(seen + m, reduce_max(load(out + m * out_stride)));
  }
}

template <int Bits>
static void linear_bits(const Matrix& w, const TileRange& range, const CodeLine* panel, int64_t rows,
                        float* out, int64_t out_stride, float scale, const Largest* largest) {
  constexpr int kMost = kCodeRows / 2,
                kOne = kCodeRows < kPanelRows ? kCodeRows : static_cast<int>(kPanelRows);
  const bool one = w.halves() == 1;
  // Blocks of about the same size, both halves of a row in one; a tile is near while its blocks are
  // multiplied.
  const int64_t most = one ? kOne : kMost, blocks = (rows + most - 1) / most,
                size = (rows + blocks - 1) / blocks;
  const int64_t step = blocks == 1 ? range.end - range.begin : 1;
  for (int64_t t = range.begin; t < range.end; t += step, out += 16 * step) {
    const TileRange some{range.which, t, t + step, range.valid - 16 * (t - range.begin)};
    for (int64_t m = 0; m < rows; m += size) {
      const int64_t count = size < rows - m ? size : rows - m;
      float* to = out + m * out_stride;
      if (one) {
        with_rows<kOne>(count, [&](auto block) {
          tiles_of_rows<Bits, block.value>(w, some, panel + m, rows, to, out_stride, scale);
        });
        continue;
      }
      with_rows<kMost>(count, [&](auto block) {
        constexpr int kRows = block.value;
        if (largest != nullptr) {
          largest_of_halves<Bits, kRows>(w, some, panel + m, rows, to, out_stride, scale, *largest,
                                         largest->seen + m);
        } else if (count == rows) {
          tiles_of_halves<Bits, kRows, true>(w, some, panel, rows, to, out_stride, scale);
        } else {
          tiles_of_halves<Bits, kRows, false>(w, some, panel + m, rows, to, out_stride, scale);
        }
      });
    }
  }
}

static void linear_rows(const Matrix& w, const TileRange& range, const CodeLine* panel, int64_t rows,
                        float* out, int64_t out_stride, float scale, const Largest* largest) {
  switch (info(w.format).bits) {
    case 2:
      return linear_bits<2>(w, range, panel, rows, out, out_stride, scale, largest);
    case 4:
      return linear_bits<4>(w, range, panel, rows, out, out_stride, scale, largest);
    default:
      return linear_bits<8>(w, range, panel, rows, out, out_stride, scale, largest);
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
