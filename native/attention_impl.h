// Softmax attention of one row over float16 keys and values. Included by kernels_impl.h.
//
// Online softmax over tiles of 64 absolute positions. Keys outside [first, last] are never read, so a
// row's bits do not depend on what a rejected draft left in the cache.

static inline F load_half(const uint16_t* x, int lanes) {
  if (lanes == 16) return load_half(x);
  uint16_t tail[16];
  for (int j = 0; j < 16; ++j) tail[j] = j < lanes ? x[j] : static_cast<uint16_t>(0);
  return load_half(tail);
}

struct AttentionState {
  alignas(64) float q[kHeadBlock][kMaxHeadDim];    // zero-padded to whole vectors
  alignas(64) float acc[kHeadBlock][kMaxHeadDim];  // unnormalized output
  alignas(64) float score[kHeadBlock][kKeyTile];
  alignas(64) float factor[kHeadBlock][16];  // what the tile's new maximum scales acc by
};

// score[h][j] = q[h] . key[j] for keys j .. j+B of the tile; one chain over head_dim each.
template <int H, int B>
static inline void score_keys(AttentionState& s, const uint16_t* keys, int dim, int j) {
  F acc[H][B];
  for (int h = 0; h < H; ++h) {
    for (int b = 0; b < B; ++b) acc[h][b] = set1(0.0f);
  }
  for (int d = 0; d < dim; d += 16) {
    const int lanes = dim - d < 16 ? dim - d : 16;
    F key[B];
    for (int b = 0; b < B; ++b) key[b] = load_half(keys + (j + b) * dim + d, lanes);
    for (int h = 0; h < H; ++h) {
      const F q = load(&s.q[h][d]);
      for (int b = 0; b < B; ++b) acc[h][b] = fma(q, key[b], acc[h][b]);
    }
  }
  for (int h = 0; h < H; ++h) {
    for (int b = 0; b < B; ++b) s.score[h][j + b] = reduce_add(acc[h][b]);
  }
}

// acc[h][d ..] = acc * factor + sum over keys begin .. end-1 of p[h][j] * value[j][d ..], keys ascending.
template <int H, int B>
static inline void add_values(AttentionState& s, const uint16_t* values, int dim, int d, int begin, int end) {
  F acc[H][B];
  const int lanes = dim - d < 16 ? dim - d : 16;  // below 16 only where B is 1
  for (int h = 0; h < H; ++h) {
    const F factor = load(s.factor[h]);
    for (int b = 0; b < B; ++b) acc[h][b] = mul(load(&s.acc[h][d + 16 * b]), factor);
  }
  for (int j = begin; j < end; ++j) {
    F value[B];
    for (int b = 0; b < B; ++b) {
      value[b] = B == 1 ? load_half(values + j * dim + d, lanes) : load_half(values + j * dim + d + 16 * b);
    }
    for (int h = 0; h < H; ++h) {
      const F p = set1(s.score[h][j]);
      for (int b = 0; b < B; ++b) acc[h][b] = fma(p, value[b], acc[h][b]);
    }
  }
  for (int h = 0; h < H; ++h) {
    for (int b = 0; b < B; ++b) store(&s.acc[h][d + 16 * b], acc[h][b]);
  }
}

template <int H>
static void attend(const AttentionTask& t) {
  AttentionState s;
  const int dim = t.head_dim;
  for (int h = 0; h < H; ++h) {
    each16(dim, [&](int64_t d, int lanes) {
      store(&s.q[h][d], load(t.q + h * dim + d, lanes));
      store(&s.acc[h][d], set1(0.0f));
    });
  }
  float top[H];
  F sum[H];
  for (int h = 0; h < H; ++h) {
    top[h] = -__builtin_inff();
    sum[h] = set1(0.0f);
  }
  for (int64_t tile = t.first / kKeyTile; tile * kKeyTile <= t.last; ++tile) {
    const int64_t start = tile * kKeyTile;
    const int begin = t.first > start ? static_cast<int>(t.first - start) : 0;
    const int end = t.last - start < kKeyTile - 1 ? static_cast<int>(t.last - start) + 1 : kKeyTile;
    const int64_t at = start % t.rows * dim;
    for (int h = 0; h < H; ++h) {
      for (int j = 0; j < kKeyTile; j += 16) store(&s.score[h][j], set1(-__builtin_inff()));
    }
    int j = begin;
    for (; j + kKeyBlock <= end; j += kKeyBlock) score_keys<H, kKeyBlock>(s, t.keys + at, dim, j);
    for (; j < end; ++j) score_keys<H, 1>(s, t.keys + at, dim, j);
    for (int h = 0; h < H; ++h) {
      float* score = s.score[h];
      const F high = max(max(load(score), load(score + 16)), max(load(score + 32), load(score + 48)));
      const float tile_top = reduce_max(high);
      const float new_top = tile_top > top[h] ? tile_top : top[h];
      F p[4];
      for (int c = 0; c < 4; ++c) {
        p[c] = exp16(sub(load(score + 16 * c), set1(new_top)));
        store(score + 16 * c, p[c]);
      }
      const F factor = exp16(set1(top[h] - new_top));
      store(s.factor[h], factor);
      sum[h] = fma(sum[h], factor, add(add(p[0], p[1]), add(p[2], p[3])));
      top[h] = new_top;
    }
    int d = 0;
    for (; d + 16 * kValueVecs <= dim; d += 16 * kValueVecs) {
      add_values<H, kValueVecs>(s, t.values + at, dim, d, begin, end);
    }
    for (; d < dim; d += 16) add_values<H, 1>(s, t.values + at, dim, d, begin, end);
  }
  for (int h = 0; h < H; ++h) {
    const float total = reduce_add(sum[h]);
    const F divisor = set1(total > 0.0f ? total : 1.0f);  // no keys: zeros
    each16(dim, [&](int64_t d, int lanes) {
      store(t.out + h * dim + d, div(load(&s.acc[h][d]), divisor), lanes);
    });
  }
}

static void attention(const AttentionTask& task) {
  switch (task.heads) {
    case 1:
      attend<1>(task);
      break;
    case 2:
      attend<2>(task);
      break;
    case 3:
      attend<3>(task);
      break;
    default:
      attend<4>(task);
      break;
  }
}
