// Attention over int8 keys and values. Included by kernels_impl.h.

// score[r][16 b ..] of R queries and B vectors of keys that lie `between` bytes apart.
template <int R, int B, bool Fetch>
static inline void score_codes(const int8_t* const* q, const int32_t* start, const float* q_scale,
                               const uint8_t* keys, int64_t between, const float* key_scales, int steps,
                               float* const* score, const char* ahead) {
  const int8_t* from[R];
  I sum[R][B];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    from[r] = q[r];
#pragma GCC unroll 8
    for (int b = 0; b < B; ++b) sum[r][b] = start8(start[r]);
  }
  for (int g = 0; g < steps; ++g) {
    if constexpr (Fetch) {
      for (int line = 0; line < 4; ++line) prefetch(ahead + 256 * g + 64 * line);
    }
    W8 key[B];
#pragma GCC unroll 8
    for (int b = 0; b < B; ++b) key[b] = load_w8(keys + b * between + 64 * g);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Four four = four_codes(from[r] + 4 * g);
#pragma GCC unroll 8
      for (int b = 0; b < B; ++b) sum[r][b] = dot_w8(sum[r][b], key[b], four);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int b = 0; b < B; ++b) {
      store(score[r] + 16 * b, mul(mul(to_float(sum[r][b]), set1(q_scale[r])), load(key_scales + 16 * b)));
    }
  }
}

// acc[r][16 b ..] += p_scale[r] * sum over keys of groups begin .. end-1 of p[r][key] * value[key][16 b ..].
template <int R, int B, bool Fetch>
static inline void add_codes(const uint8_t* const* p, const float* p_scale, const int8_t* values,
                             int64_t group_bytes, int begin, int end, float* const* acc, const char* ahead) {
  const uint8_t* from[R];
  I sum[R][B];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    from[r] = p[r];
#pragma GCC unroll 8
    for (int b = 0; b < B; ++b) sum[r][b] = zero_sums();
  }
  for (int g = begin; g < end; ++g) {
    if constexpr (Fetch) {
      for (int line = 0; line < 4; ++line) prefetch(ahead + 256 * g + 64 * line);
    }
    V8 value[B];
#pragma GCC unroll 8
    for (int b = 0; b < B; ++b) value[b] = load_v8(values + g * group_bytes + 64 * b);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Four four = four_codes(from[r] + 4 * g);
#pragma GCC unroll 8
      for (int b = 0; b < B; ++b) sum[r][b] = dot_v8(sum[r][b], value[b], four);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int b = 0; b < B; ++b) {
      float* at = acc[r] + 16 * b;
      store(at, fma(to_float(sum[r][b]), set1(p_scale[r]), load(at)));
    }
  }
}

// Codes of query i's probabilities times the scales of the values; returns their scale.
static inline float quantize_probabilities(const float* p, const float* value_scales, uint8_t* codes) {
  F w[kTileVecs];
  for (int c = 0; c < kTileVecs; ++c) {
    const F x = load(p + 16 * c);
    // Selected: the scale of a row that nobody sees may be anything.
    w[c] = select_less(set1(0.0f), x, mul(x, load(value_scales + 16 * c)), set1(0.0f));
  }
  const float most = reduce_max(max(max(w[0], w[1]), max(w[2], w[3])));
  const float inverse = most < 1e-30f ? 0.0f : 255.0f / most;
  for (int c = 0; c < kTileVecs; ++c) store_u8(codes + 16 * c, mul(w[c], set1(inverse)));
  return most < 1e-30f ? 0.0f : most / 255.0f;
}

static void turn_queries(const AttentionTask& t, const AttentionScratch& s) {
  const int64_t width = round_up(t.head_dim, 32);
  const float unit = kLog2E / static_cast<float>(hadamard_block(t.head_dim));
  alignas(64) float turned[kMaxHeadDim];
  for (int i = 0; i < t.count * t.heads; ++i) {
    const float* q = query_of(t, i);
    each16(t.head_dim, [&](int64_t d, int lanes) { store(turned + d, load(q + d, lanes), lanes); });
    hadamard(turned, t.head_dim);
    int32_t sum;
    s.q_scale[i] = unit * quantize_head(turned, t.head_dim, s.q_codes + i * width, &sum);
    s.q_start[i] = -128 * sum;
  }
}

static void attend_int8(const AttentionTask& t) {
  const AttentionScratch s = attention_arrays(t);
  const int queries = t.count * t.heads;
  const int64_t q_width = round_up(t.head_dim, 32), key_bytes = round_up(t.head_dim, 4),
                value_bytes = value_width(t.head_dim), head = t.kv_head * t.slot.rows;
  const uint8_t* all_keys = static_cast<const uint8_t*>(t.slot.keys) + head * key_bytes;
  const int8_t* all_values = static_cast<const int8_t*>(t.slot.values) + head * value_bytes;
  turn_queries(t, s);
  each_tile(t, [&](const KeyTile& tile) {
    const uint8_t* keys = all_keys + tile.at * key_bytes;
    const int8_t* values = all_values + tile.at * value_bytes;
    const float* key_scales = t.slot.key_scales + head + tile.at;
    const char* next_keys =
        tile.next < 0 ? nullptr : reinterpret_cast<const char*>(all_keys + tile.next * key_bytes);
    const char* next_values =
        tile.next < 0 ? nullptr : reinterpret_cast<const char*>(all_values + tile.next * value_bytes);
    const int steps = static_cast<int>(key_bytes / 4);
    const int64_t between = key_bytes * kKeyLanes;
    each_block<kCodeBlock>(queries, [&](int i, auto rows) {
      constexpr int R = rows.value;
      const int8_t* q[R];
      for (int r = 0; r < R; ++r) q[r] = s.q_codes + (i + r) * q_width;
      each_vec(tile.first_vec(), tile.end_vec(), [&](int v, auto vecs) {
        constexpr int B = vecs.value;
        float* score[R];
        for (int r = 0; r < R; ++r) score[r] = s.score + (i + r) * kKeyTile + 16 * v;
        const uint8_t* from = keys + v * between;
        if (next_keys != nullptr && i == 0 && v == tile.first_vec()) {
          score_codes<R, B, true>(q, s.q_start + i, s.q_scale + i, from, between, key_scales + 16 * v, steps,
                                  score, next_keys);
        } else {
          score_codes<R, B, false>(q, s.q_start + i, s.q_scale + i, from, between, key_scales + 16 * v, steps,
                                   score, nullptr);
        }
      });
    });
    for (int i = 0; i < queries; ++i) {
      float* score = s.score + i * kKeyTile;
      tile_probabilities(t, tile, i, score);
      s.p_scale[i] = quantize_probabilities(score, t.slot.value_scales + head + tile.at, s.p + i * kKeyTile);
    }
    const int begin = tile.from / 4, end = (tile.to + 3) / 4,
              vecs_of_value = static_cast<int>(value_bytes / 16);
    for (int first = 0; first < vecs_of_value; first += kTileVecs) {
      const int behind = first + kTileVecs < vecs_of_value ? first + kTileVecs : vecs_of_value;
      each_block<kCodeBlock>(queries, [&](int i, auto rows) {
        constexpr int R = rows.value;
        const uint8_t* p[R];
        for (int r = 0; r < R; ++r) p[r] = s.p + (i + r) * kKeyTile;
        each_vec(first, behind, [&](int v, auto vecs) {
          constexpr int B = vecs.value;
          float* acc[R];
          for (int r = 0; r < R; ++r) acc[r] = record_of(t, i + r) + 16 * v;
          const int8_t* from = values + 64 * v;
          if (next_values != nullptr && i == 0 && v == first) {
            add_codes<R, B, true>(p, s.p_scale + i, from, 4 * value_bytes, begin, end, acc,
                                  next_values + first * 16 * kKeyTile);
          } else {
            add_codes<R, B, false>(p, s.p_scale + i, from, 4 * value_bytes, begin, end, acc, nullptr);
          }
        });
      });
    }
  });
}

static void store_int8_kv(const float* key, const float* value, const KvSlot& slot, int64_t kv_head,
                          int64_t row, int64_t dim) {
  const int64_t head = kv_head * slot.rows, key_bytes = round_up(dim, 4), value_bytes = value_width(dim);
  alignas(64) float turned[kMaxHeadDim];
  alignas(64) int8_t codes[kMaxHeadDim];
  int32_t sum;
  const auto turn = [&](const float* x) {
    each16(dim, [&](int64_t d, int lanes) { store(turned + d, load(x + d, lanes), lanes); });
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
