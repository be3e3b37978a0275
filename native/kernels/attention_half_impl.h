// Attention over float16 keys and values. Included by kernels_impl.h.
//
// Part of a tile is widened into a panel of 64 x 64 floats that stays in the first-level cache, then
// multiplied by all queries, a block of them in registers at a time.

static inline F load_half(const uint16_t* x, int lanes) {
  if (lanes == 16) return load_half(x);
  uint16_t tail[16];
  for (int j = 0; j < 16; ++j) tail[j] = j < lanes ? x[j] : static_cast<uint16_t>(0);
  return load_half(tail);
}

// c[r][16 b ..] += sum over k of a[r][k] * panel[k][16 b ..], k ascending. Meanwhile calls 128 bytes for each
// k into the cache where Fetch says so.
template <int R, int B, bool Fetch>
static inline void multiply_panel(const float* const* a, const float* panel, int begin, int end,
                                  float* const* c, const char* ahead) {
  const float* from[R];
  F acc[R][B];
  for (int r = 0; r < R; ++r) {
    from[r] = a[r];
    for (int b = 0; b < B; ++b) acc[r][b] = load(c[r] + 16 * b);
  }
  for (int k = begin; k < end; ++k) {
    if constexpr (Fetch) {
      prefetch(ahead + 128 * k);
      prefetch(ahead + 128 * k + 64);
    }
    F x[B];
    for (int b = 0; b < B; ++b) x[b] = load(panel + k * kKeyTile + 16 * b);
    for (int r = 0; r < R; ++r) {
      const F q = set1(from[r][k]);
      for (int b = 0; b < B; ++b) acc[r][b] = fma(q, x[b], acc[r][b]);
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int b = 0; b < B; ++b) store(c[r] + 16 * b, acc[r][b]);
  }
}

// The panel's vectors first_vec .. end_vec-1 times all queries: a_of(i) and c_of(i) are query i's row of
// either side. The first block fetches `ahead`, if that is not null.
template <class A, class C>
static inline void multiply_queries(int queries, const float* panel, int begin, int end, int first_vec,
                                    int end_vec, const char* ahead, A a_of, C c_of) {
  each_block<kQueryBlock>(queries, [&](int i, auto rows) {
    constexpr int R = rows.value;
    const float* a[R];
    for (int r = 0; r < R; ++r) a[r] = a_of(i + r);
    each_vec(first_vec, end_vec, [&](int v, auto vecs) {
      constexpr int B = vecs.value;
      float* c[R];
      for (int r = 0; r < R; ++r) c[r] = c_of(i + r) + 16 * v;
      if (ahead != nullptr && i == 0 && v == first_vec) {
        multiply_panel<R, B, true>(a, panel + 16 * v, begin, end, c, ahead);
      } else {
        multiply_panel<R, B, false>(a, panel + 16 * v, begin, end, c, nullptr);
      }
    });
  });
}

static void attend_half(const AttentionTask& t) {
  const AttentionScratch s = attention_arrays(t);
  const int queries = t.count * t.heads, dim = t.head_dim;
  const int64_t head = t.kv_head * t.slot.rows * dim;
  const uint16_t* all_keys = static_cast<const uint16_t*>(t.slot.keys) + head;
  const uint16_t* all_values = static_cast<const uint16_t*>(t.slot.values) + head;
  const int64_t q_width = round_up(dim, 32);
  for (int i = 0; i < queries; ++i) {
    each16(dim, [&](int64_t d, int lanes) {
      store(s.q + i * q_width + d, mul(load(query_of(t, i) + d, lanes), set1(kLog2E)));
    });
  }
  const auto score_of = [&](int i) { return s.score + i * kKeyTile; };
  each_tile(t, [&](const KeyTile& tile) {
    const uint16_t *keys = all_keys + tile.at * dim, *values = all_values + tile.at * dim;
    const auto next = [&](const uint16_t* all, int d) {
      return tile.next < 0 ? nullptr : reinterpret_cast<const char*>(all + tile.next * dim + d * kKeyTile);
    };
    for (int i = 0; i < queries; ++i) {
      for (int c = 0; c < kTileVecs; ++c) store(score_of(i) + 16 * c, set1(0.0f));
    }
    const int first_vec = tile.first_vec(), end_vec = tile.end_vec();
    for (int d = 0; d < dim; d += kKeyTile) {
      const int count = dim - d < kKeyTile ? dim - d : kKeyTile;
      for (int v = first_vec; v < end_vec; ++v) {
        const uint16_t* from = keys + (v * dim + d) * kKeyLanes;
        for (int k = 0; k < count; ++k) {
          store(s.panel + k * kKeyTile + 16 * v, load_half(from + k * kKeyLanes));
        }
      }
      multiply_queries(
          queries, s.panel, 0, count, first_vec, end_vec, next(all_keys, d),
          [&](int i) { return s.q + i * q_width + d; }, score_of);
    }
    for (int i = 0; i < queries; ++i) tile_probabilities(t, tile, i, score_of(i));
    for (int d = 0; d < dim; d += kKeyTile) {
      const int count = dim - d < kKeyTile ? dim - d : kKeyTile;
      for (int k = tile.from; k < tile.to; ++k) {
        const uint16_t* from = values + k * dim + d;
        each16(count,
               [&](int64_t j, int lanes) { store(s.panel + k * kKeyTile + j, load_half(from + j, lanes)); });
      }
      multiply_queries(queries, s.panel, tile.from, tile.to, 0, (count + 15) / 16, next(all_values, d),
                       score_of, [&](int i) { return record_of(t, i) + d; });
    }
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
