// Softmax attention over float16 keys and values. Included by kernels_impl.h.
//
// Online softmax over tiles of 64 absolute positions, all rows of a task tile by tile: memory is read once.
// Keys outside [first, last] are never read, so a row's bits do not depend on what a rejected draft left in
// the cache.

static inline F load_half(const uint16_t* x, int lanes) {
  if (lanes == 16) return load_half(x);
  uint16_t tail[16];
  for (int j = 0; j < 16; ++j) tail[j] = j < lanes ? x[j] : static_cast<uint16_t>(0);
  return load_half(tail);
}

// How far ahead of use the first row of a task calls keys and values into the cache; other rows find them
// there.
constexpr int64_t kKeysAhead = 8192;

// One row's part of the scratch; every array is a whole number of vectors.
struct AttentionRow {
  float* q;       // [heads][width], zero-padded
  float* acc;     // [heads][width], unnormalized output
  float* score;   // [heads][kKeyTile]
  float* factor;  // [heads][16], what the tile's new maximum scales acc by
  float* top;     // [heads][16], the first lane counts
  float* sum;     // [heads][16]
  int64_t width;  // head_dim, rounded up to whole vectors
};

static inline AttentionRow attention_row(const AttentionTask& t, int row) {
  AttentionRow s;
  s.width = (t.head_dim + 15) / 16 * 16;
  s.q = t.scratch + row * attention_scratch(t.heads, t.head_dim);
  s.acc = s.q + t.heads * s.width;
  s.score = s.acc + t.heads * s.width;
  s.factor = s.score + t.heads * kKeyTile;
  s.top = s.factor + t.heads * 16;
  s.sum = s.top + t.heads * 16;
  return s;
}

// score[h][j] = q[h] . key[j] for keys j .. j+B of the tile; one chain over head_dim each.
template <int H, int B>
static inline void score_keys(const AttentionRow& s, const uint16_t* keys, int dim, int j, bool fetch) {
  F acc[H][B];
  for (int h = 0; h < H; ++h) {
    for (int b = 0; b < B; ++b) acc[h][b] = set1(0.0f);
  }
  for (int d = 0; d < dim; d += 16) {
    const int lanes = dim - d < 16 ? dim - d : 16;
    F key[B];
    for (int b = 0; b < B; ++b) {
      const uint16_t* at = keys + (j + b) * dim + d;
      if (fetch && d % 32 == 0) prefetch(at + kKeysAhead / 2);
      key[b] = load_half(at, lanes);
    }
    for (int h = 0; h < H; ++h) {
      const F q = load(s.q + h * s.width + d);
      for (int b = 0; b < B; ++b) acc[h][b] = fma(q, key[b], acc[h][b]);
    }
  }
  for (int h = 0; h < H; ++h) {
    float* score = s.score + h * kKeyTile + j;
    if constexpr (B == 4) {
      reduce_add4(acc[h][0], acc[h][1], acc[h][2], acc[h][3], score);
    } else {
      for (int b = 0; b < B; ++b) score[b] = reduce_add(acc[h][b]);
    }
  }
}

// acc[h][d ..] = acc * factor + sum over keys begin .. end-1 of p[h][j] * value[j][d ..], keys ascending.
template <int H, int B>
static inline void add_values(const AttentionRow& s, const uint16_t* values, int dim, int d, int begin,
                              int end, bool fetch) {
  F acc[H][B];
  const int lanes = dim - d < 16 ? dim - d : 16;  // below 16 only where B is 1
  for (int h = 0; h < H; ++h) {
    const F factor = load(s.factor + 16 * h);
    for (int b = 0; b < B; ++b) acc[h][b] = mul(load(s.acc + h * s.width + d + 16 * b), factor);
  }
  for (int j = begin; j < end; ++j) {
    F value[B];
    for (int b = 0; b < B; ++b) {
      if (fetch && b % 2 == 0) prefetch(values + j * dim + d + 16 * b + kKeysAhead / 2);
      value[b] = B == 1 ? load_half(values + j * dim + d, lanes) : load_half(values + j * dim + d + 16 * b);
    }
    for (int h = 0; h < H; ++h) {
      const F p = set1(s.score[h * kKeyTile + j]);
      for (int b = 0; b < B; ++b) acc[h][b] = fma(p, value[b], acc[h][b]);
    }
  }
  for (int h = 0; h < H; ++h) {
    for (int b = 0; b < B; ++b) store(s.acc + h * s.width + d + 16 * b, acc[h][b]);
  }
}

template <int H>
static inline void begin_row(const AttentionTask& t, int row) {
  const AttentionRow s = attention_row(t, row);
  for (int h = 0; h < H; ++h) {
    each16(t.head_dim, [&](int64_t d, int lanes) {
      store(s.q + h * s.width + d, load(t.q + row * t.q_stride + h * t.head_dim + d, lanes));
      store(s.acc + h * s.width + d, set1(0.0f));
    });
    store(s.top + 16 * h, set1(-__builtin_inff()));
    store(s.sum + 16 * h, set1(0.0f));
  }
}

// Keys begin .. end-1 of a tile.
template <int H>
static inline void row_tile(const AttentionRow& s, const uint16_t* keys, const uint16_t* values, int dim,
                            int begin, int end, bool fetch) {
  for (int h = 0; h < H; ++h) {
    for (int j = 0; j < kKeyTile; j += 16) store(s.score + h * kKeyTile + j, set1(-__builtin_inff()));
  }
  int j = begin;
  for (; j + kKeyBlock <= end; j += kKeyBlock) score_keys<H, kKeyBlock>(s, keys, dim, j, fetch);
  for (; j < end; ++j) score_keys<H, 1>(s, keys, dim, j, fetch);
  for (int h = 0; h < H; ++h) {
    float* score = s.score + h * kKeyTile;
    const F high = max(max(load(score), load(score + 16)), max(load(score + 32), load(score + 48)));
    const float tile_top = reduce_max(high), old_top = s.top[16 * h];
    const float new_top = tile_top > old_top ? tile_top : old_top;
    F p[4];
    for (int c = 0; c < 4; ++c) {
      p[c] = exp16(sub(load(score + 16 * c), set1(new_top)));
      store(score + 16 * c, p[c]);
    }
    const F factor = exp16(set1(old_top - new_top));
    store(s.factor + 16 * h, factor);
    store(s.sum + 16 * h, fma(load(s.sum + 16 * h), factor, add(add(p[0], p[1]), add(p[2], p[3]))));
    s.top[16 * h] = new_top;
  }
  int d = 0;
  for (; d + 16 * kValueVecs <= dim; d += 16 * kValueVecs) {
    add_values<H, kValueVecs>(s, values, dim, d, begin, end, fetch);
  }
  for (; d < dim; d += 16) add_values<H, 1>(s, values, dim, d, begin, end, fetch);
}

template <int H>
static inline void end_row(const AttentionTask& t, int row) {
  const AttentionRow s = attention_row(t, row);
  for (int h = 0; h < H; ++h) {
    const float total = reduce_add(load(s.sum + 16 * h));
    const F divisor = set1(total > 0.0f ? total : 1.0f);  // no keys: zeros
    each16(t.head_dim, [&](int64_t d, int lanes) {
      store(t.out + row * t.out_stride + h * t.head_dim + d, div(load(s.acc + h * s.width + d), divisor),
            lanes);
    });
  }
}

template <int H>
static void attend(const AttentionTask& t) {
  for (int row = 0; row < t.count; ++row) begin_row<H>(t, row);
  const int64_t lowest = t.first > 0 ? t.first : 0;
  for (int64_t tile = lowest / kKeyTile; tile * kKeyTile < t.last + t.count; ++tile) {
    const int64_t start = tile * kKeyTile, at = start % t.rows * t.head_dim;
    for (int row = 0; row < t.count; ++row) {
      const int64_t first = t.first + row - start, end = t.last + row - start + 1;
      const int from =
          first > 0 ? static_cast<int>(first) : 0;  // past the tile's end where it sees none of it
      const int to = end < kKeyTile ? static_cast<int>(end) : kKeyTile;
      if (from < to) {
        row_tile<H>(attention_row(t, row), t.keys + at, t.values + at, t.head_dim, from, to, row == 0);
      }
    }
  }
  for (int row = 0; row < t.count; ++row) end_row<H>(t, row);
}

static void attention(const AttentionTask& task) {
  with_rows<kHeadBlock>(task.heads, [&](auto heads) { attend<heads.value>(task); });
}
