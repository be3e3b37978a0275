// Attention over float16 keys and values. Included by kernels_impl.h.
//
// A block of queries is multiplied in registers by one or two vectors of keys, or of a value, which are
// widened on the way: once for all of the block.

static inline F load_half(const uint16_t* x, int lanes) {
  if (lanes == 16) return load_half(x);
  uint16_t tail[16];
  for (int j = 0; j < 16; ++j) tail[j] = j < lanes ? x[j] : static_cast<uint16_t>(0);
  return load_half(tail);
}

// acc[r][b] += sum over k of a[r * Stride + k] * (vector b of row k), k ascending. Vector b of row k stands
// at x + k * step + b * between. Meanwhile calls 64 bytes for each k into the cache where Fetch says so.
template <int Stride, int R, int B, bool Fetch>
static inline void multiply_half(const float* a, const uint16_t* x, int64_t step, int64_t between, int begin,
                                 int end, F (&acc)[R][B], const char* ahead) {
  x += begin * step;
  for (int k = begin; k < end; ++k, x += step) {
    if constexpr (Fetch) prefetch(ahead + 64 * k);
    F wide[B];
#pragma GCC unroll 2
    for (int b = 0; b < B; ++b) wide[b] = load_half(x + b * between);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const F q = set1(a[r * Stride + k]);
#pragma GCC unroll 2
      for (int b = 0; b < B; ++b) acc[r][b] = fma(q, wide[b], acc[r][b]);
    }
  }
}

// Scores of R queries and B vectors of keys.
template <int R, int B, bool Fetch>
static inline void score_half(const float* q, const uint16_t* keys, int dim, float* score,
                              const char* ahead) {
  F acc[R][B];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int b = 0; b < B; ++b) acc[r][b] = set1(0.0f);
  }
  multiply_half<kQueryBytes / 4, R, B, Fetch>(q, keys, kKeyLanes, dim * kKeyLanes, 0, dim, acc, ahead);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int b = 0; b < B; ++b) store(score + r * kKeyTile + 16 * b, acc[r][b]);
  }
}

// Adds B vectors of the values of keys begin .. end-1, weighed by p, to R records.
template <int R, int B, bool Fetch>
static inline void add_half(const float* p, const uint16_t* values, int dim, int begin, int end,
                            float* const* records, const char* ahead) {
  F acc[R][B];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int b = 0; b < B; ++b) acc[r][b] = load(records[r] + 16 * b);
  }
  multiply_half<kKeyTile, R, B, Fetch>(p, values, dim, 16, begin, end, acc, ahead);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int b = 0; b < B; ++b) store(records[r] + 16 * b, acc[r][b]);
  }
}

// The same for the lanes < 16 of a value that are left over.
static inline void add_half_tail(const float* p, const uint16_t* values, int dim, int lanes, int begin,
                                 int end, float* record) {
  F acc = load(record);
  for (int k = begin; k < end; ++k) acc = fma(set1(p[k]), load_half(values + k * dim, lanes), acc);
  store(record, acc);
}

// Calls body(v, Rows<B>) for vectors begin .. end-1, B at most kHalfVecs together.
template <class Body>
static inline void each_half_vec(int begin, int end, Body body) {
  for (int v = begin; v < end; v += kHalfVecs) {
    with_rows<kHalfVecs>(end - v, [&](auto vecs) { body(v, vecs); });
  }
}

static inline void score_tile_half(const AttentionTask& t, const AttentionScratch& s, const KeyTile& tile,
                                   const uint16_t* keys, const char* next) {
  const int dim = t.head_dim;
  each_half_vec(tile.first_vec(), tile.end_vec(), [&](int v, auto vecs) {
    constexpr int B = vecs.value;
    const uint16_t* from = keys + v * dim * kKeyLanes;
    each_block<kHalfBlock>(t.count * t.heads, [&](int i, auto rows) {
      constexpr int R = rows.value;
      const float* q = s.q + i * (kQueryBytes / 4);
      float* score = s.score + i * kKeyTile + 16 * v;
      if (next != nullptr && i == 0) {
        score_half<R, B, true>(q, from, dim, score, next + v * dim * 2 * kKeyLanes);
      } else {
        score_half<R, B, false>(q, from, dim, score, nullptr);
      }
    });
  });
}

static inline void add_tile_half(const AttentionTask& t, const AttentionScratch& s, const KeyTile& tile,
                                 const uint16_t* values, const char* next) {
  const int dim = t.head_dim, queries = t.count * t.heads;
  each_half_vec(0, dim / 16, [&](int v, auto vecs) {
    constexpr int B = vecs.value;
    each_block<kHalfBlock>(queries, [&](int i, auto rows) {
      constexpr int R = rows.value;
      float* records[R];
      for (int r = 0; r < R; ++r) records[r] = s.record[i + r] + 16 * v;
      const float* p = s.score + i * kKeyTile;
      if (next != nullptr && i == 0) {
        add_half<R, B, true>(p, values + 16 * v, dim, tile.from, tile.to, records, next + v * 32 * kKeyTile);
      } else {
        add_half<R, B, false>(p, values + 16 * v, dim, tile.from, tile.to, records, nullptr);
      }
    });
  });
  if (dim % 16 == 0) return;
  const int d = dim / 16 * 16;
  for (int i = 0; i < queries; ++i) {
    add_half_tail(s.score + i * kKeyTile, values + d, dim, dim - d, tile.from, tile.to, s.record[i] + d);
  }
}

static void attend_half(const AttentionTask& t, const AttentionScratch& s) {
  const int dim = t.head_dim;
  each_query(t, [&](int i, const float* q) {
    each16(dim, [&](int64_t d, int lanes) {
      store(s.q + i * (kQueryBytes / 4) + d, mul(load(q + d, lanes), set1(kLog2E)));
    });
  });
  const int64_t head = t.kv_head * t.slot.rows * dim;
  const uint16_t* keys = static_cast<const uint16_t*>(t.slot.keys) + head;
  const uint16_t* values = static_cast<const uint16_t*>(t.slot.values) + head;
  each_tile(t, [&](const KeyTile& tile) {
    const auto next = [&](const uint16_t* all) {
      return tile.next < 0 ? nullptr : reinterpret_cast<const char*>(all + tile.next * dim);
    };
    score_tile_half(t, s, tile, keys + tile.at * dim, next(keys));
    each_probability(t, s, tile, [&](int i, const F* p) {
      for (int c = 0; c < kTileVecs; ++c) store(s.score + i * kKeyTile + 16 * c, p[c]);
    });
    add_tile_half(t, s, tile, values + tile.at * dim, next(values));
  });
}

// Finite in float16 whatever x is: a key that a row does not see enters its sum as 0 * value.
static inline F finite_half(F x) { return min(set1(65504.0f), max(x, set1(-65504.0f))); }

static void store_half_kv(const float* key, const float* value, const KvSlot& slot, int64_t kv_head,
                          int64_t row, int64_t dim) {
  const int64_t head = kv_head * slot.rows;
  uint16_t* keys =
      static_cast<uint16_t*>(slot.keys) + (head + row / kKeyLanes * kKeyLanes) * dim + row % kKeyLanes;
  uint16_t* values = static_cast<uint16_t*>(slot.values) + (head + row) * dim;
  each16(dim, [&](int64_t d, int lanes) {
    uint16_t k[16], v[16];
    store_half(k, finite_half(load(key + d, lanes)));
    store_half(v, finite_half(load(value + d, lanes)));
    for (int j = 0; j < lanes; ++j) {
      keys[(d + j) * kKeyLanes] = k[j];
      values[d + j] = v[j];
    }
  });
}
