// Attention over int8 keys and values. Included by kernels_impl.h.

// Scores of R queries and B vectors of keys that lie `between` bytes apart.
template <int R, int B, bool Fetch>
static inline void score_codes(const int8_t* q, const int32_t* start, const float* q_scale,
                               const uint8_t* keys, int64_t between, const float* key_scales, int steps,
                               float* score, const char* ahead) {
  I sum[R][B];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int b = 0; b < B; ++b) sum[r][b] = start8(start[r]);
  }
  for (int g = 0; g < steps; ++g) {
    if constexpr (Fetch) {
#pragma GCC unroll 4
      for (int line = 0; line < B; ++line) prefetch(ahead + 64 * (B * g + line));
    }
    W8 key[B];
#pragma GCC unroll 4
    for (int b = 0; b < B; ++b) key[b] = load_w8(keys + b * between + 64 * g);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Four four = four_codes(q + r * kQueryBytes + 4 * g);
#pragma GCC unroll 4
      for (int b = 0; b < B; ++b) sum[r][b] = dot_w8(sum[r][b], key[b], four);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int b = 0; b < B; ++b) {
      const F scaled = mul(to_float(sum[r][b]), set1(q_scale[r]));
      store(score + r * kKeyTile + 16 * b, mul(scaled, load(key_scales + 16 * b)));
    }
  }
}

// Adds B vectors of the values of key groups begin .. end-1, four keys each, weighed by codes p, to R
// records.
template <int R, int B, bool Fetch>
static inline void add_codes(const uint8_t* p, const int32_t* p_start, const float* p_scale,
                             const int8_t* values, int64_t group_bytes, int begin, int end,
                             float* const* records, const char* ahead) {
  I sum[R][B];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int b = 0; b < B; ++b) sum[r][b] = kValueBias == 0 ? zero_sums() : same_sums(p_start[r]);
  }
  for (int g = begin; g < end; ++g) {
    if constexpr (Fetch) {
#pragma GCC unroll 4
      for (int line = 0; line < B; ++line) prefetch(ahead + 64 * (B * g + line));
    }
    V8 value[B];
#pragma GCC unroll 4
    for (int b = 0; b < B; ++b) value[b] = load_v8(values + g * group_bytes + 64 * b);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Four four = four_codes(p + r * kKeyTile + 4 * g);
#pragma GCC unroll 4
      for (int b = 0; b < B; ++b) sum[r][b] = dot_v8(sum[r][b], value[b], four);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    const F scale = set1(p_scale[r]);
#pragma GCC unroll 4
    for (int b = 0; b < B; ++b) {
      float* at = records[r] + 16 * b;
      store(at, fma(to_float(sum[r][b]), scale, load(at)));
    }
  }
}

// Calls body(v, Rows<B>) for vectors begin .. end-1, B at most kCodeVecs together.
template <class Body>
static inline void each_code_vec(int begin, int end, Body body) {
  for (int v = begin; v < end; v += kCodeVecs) {
    with_rows<kCodeVecs>(end - v, [&](auto vecs) { body(v, vecs); });
  }
}

static void turn_queries(const AttentionTask& t, const AttentionScratch& s) {
  const float unit = kLog2E / static_cast<float>(hadamard_block(t.head_dim));
  alignas(64) float turned[kMaxHeadDim];
  each_query(t, [&](int i, const float* q) {
    copy_head(q, turned, t.head_dim);
    hadamard(turned, t.head_dim);
    int32_t sum;
    s.q_scale[i] = unit * quantize_head(turned, t.head_dim, s.q_codes + i * kQueryBytes, &sum);
    s.q_start[i] = -128 * sum;
  });
}

// The head's keys, values and their scales in a slot.
struct CodeHead {
  const uint8_t* keys;
  const int8_t* values;
  const float *key_scales, *value_scales;
  int64_t key_bytes, value_bytes;  // of a row
};

static inline CodeHead code_head(const KvSlot& slot, int64_t kv_head, int64_t head_dim) {
  const int64_t key_bytes = round_up(head_dim, 4), value_bytes = value_width(head_dim),
                row = kv_head * slot.rows;
  return {static_cast<const uint8_t*>(slot.keys) + row * key_bytes,
          static_cast<const int8_t*>(slot.values) + row * value_bytes,
          slot.key_scales + row,
          slot.value_scales + row,
          key_bytes,
          value_bytes};
}

static inline void score_tile_codes(const AttentionTask& t, const AttentionScratch& s, const KeyTile& tile,
                                    const CodeHead& head) {
  const int64_t between = head.key_bytes * kKeyLanes;
  const int steps = static_cast<int>(head.key_bytes / 4);
  each_code_vec(tile.first_vec(), tile.end_vec(), [&](int v, auto vecs) {
    constexpr int B = vecs.value;
    const uint8_t* keys = head.keys + tile.at * head.key_bytes + v * between;
    const float* scales = head.key_scales + tile.at + 16 * v;
    each_block<kCodeBlock>(t.count * t.heads, [&](int i, auto rows) {
      constexpr int R = rows.value;
      const int8_t* q = s.q_codes + i * kQueryBytes;
      float* score = s.score + i * kKeyTile + 16 * v;
      if (tile.next >= 0 && i == 0) {
        const uint8_t* ahead = head.keys + tile.next * head.key_bytes + v * between;
        score_codes<R, B, true>(q, s.q_start, s.q_scale, keys, between, scales, steps, score,
                                reinterpret_cast<const char*>(ahead));
      } else {
        score_codes<R, B, false>(q, s.q_start + i, s.q_scale + i, keys, between, scales, steps, score,
                                 nullptr);
      }
    });
  });
}

// Codes of every query's probabilities times the scales of the values.
static inline void quantize_tile(const AttentionTask& t, const AttentionScratch& s, const KeyTile& tile,
                                 const CodeHead& head) {
  F scale[kTileVecs];
  for (int c = 0; c < kTileVecs; ++c) scale[c] = load(head.value_scales + tile.at + 16 * c);
  each_probability(t, s, tile, [&](int i, F* p) {
    for (int c = 0; c < kTileVecs; ++c) {
      // Selected: the scale of a row that nobody sees may be anything.
      p[c] = select_less(set1(0.0f), p[c], mul(p[c], scale[c]), set1(0.0f));
    }
    const float most = reduce_max(max(max(p[0], p[1]), max(p[2], p[3])));
    const F inverse = set1(most < 1e-30f ? 0.0f : 255.0f / most);
    for (int c = 0; c < kTileVecs; ++c) p[c] = mul(p[c], inverse);
    store_u8(s.p + i * kKeyTile, p[0], p[1], p[2], p[3]);
    if constexpr (kValueBias != 0) {
      int32_t sum = 0;  // beyond the keys that are read, codes are 0
      for (int key = 0; key < kKeyTile; ++key) sum += s.p[i * kKeyTile + key];
      s.p_start[i] = -kValueBias * sum;
    }
    s.p_scale[i] = most < 1e-30f ? 0.0f : most * (1.0f / 255.0f);
  });
}

static inline void add_tile_codes(const AttentionTask& t, const AttentionScratch& s, const KeyTile& tile,
                                  const CodeHead& head) {
  const int begin = tile.from / 4, end = (tile.to + 3) / 4;
  each_code_vec(0, static_cast<int>(head.value_bytes / 16), [&](int v, auto vecs) {
    constexpr int B = vecs.value;
    const int8_t* values = head.values + tile.at * head.value_bytes + 64 * v;
    each_block<kCodeBlock>(t.count * t.heads, [&](int i, auto rows) {
      constexpr int R = rows.value;
      float* records[R];
      for (int r = 0; r < R; ++r) records[r] = s.record[i + r] + 16 * v;
      const uint8_t* p = s.p + i * kKeyTile;
      if (tile.next >= 0 && i == 0) {
        const int8_t* ahead = head.values + tile.next * head.value_bytes + v * 16 * kKeyTile;
        add_codes<R, B, true>(p, s.p_start, s.p_scale, values, 4 * head.value_bytes, begin, end, records,
                              reinterpret_cast<const char*>(ahead));
      } else {
        add_codes<R, B, false>(p, s.p_start + i, s.p_scale + i, values, 4 * head.value_bytes, begin, end,
                               records, nullptr);
      }
    });
  });
}

static void attend_int8(const AttentionTask& t, const AttentionScratch& s) {
  const CodeHead head = code_head(t.slot, t.kv_head, t.head_dim);
  turn_queries(t, s);
  each_tile(t, [&](const KeyTile& tile) {
    score_tile_codes(t, s, tile, head);
    quantize_tile(t, s, tile, head);
    add_tile_codes(t, s, tile, head);
  });
}

static void store_int8_kv(const float* key, const float* value, const KvSlot& slot, int64_t kv_head,
                          int64_t row, int64_t dim) {
  const int64_t head = kv_head * slot.rows, key_bytes = round_up(dim, 4), value_bytes = value_width(dim);
  alignas(64) float turned[kMaxHeadDim];
  alignas(64) int8_t codes[kMaxHeadDim];
  int32_t sum;
  const auto turn = [&](const float* x) {
    copy_head(x, turned, dim);
    hadamard(turned, dim);
    return quantize_head(turned, dim, codes, &sum);
  };
  slot.key_scales[head + row] = turn(key);
  uint8_t* keys = static_cast<uint8_t*>(slot.keys) + (head + row / kKeyLanes * kKeyLanes) * key_bytes +
                  row % kKeyLanes * 4;
  for (int64_t d = 0; d < key_bytes; ++d) {
    keys[d / 4 * 4 * kKeyLanes + d % 4] = static_cast<uint8_t>(codes[d] + 128);
  }
  slot.value_scales[head + row] = turn(value);
  int8_t* values = static_cast<int8_t*>(slot.values) + (head + row / 4 * 4) * value_bytes + row % 4;
  for (int64_t d = 0; d < value_bytes; ++d) values[4 * d] = codes[d];
}
