// What attention over both formats of keys and values shares. Included by kernels_impl.h.
//
// Online softmax over tiles of 64 absolute positions, all queries of a task tile by tile: memory is read
// once. Scores outside a row's own positions are replaced, never multiplied, so a row's bits do not depend on
// what a rejected draft left in the cache. A masked key of a later row of the same task adds an exact zero.

constexpr int kTileVecs = kKeyTile / 16;
constexpr float kLog2E = 1.44269504088896341f;

// Every array begins at a cache line.
struct AttentionScratch {
  float** record;    // [queries]
  float* q;          // float16: kQueryBytes apart, in units that make a score a power of two
  int8_t* q_codes;   // int8: kQueryBytes apart, codes of the turned queries
  float* q_scale;    // [queries]
  int32_t* q_start;  // [queries] -128 * sum of the codes, which cancels the 128 added to keys
  float* score;      // [queries][kKeyTile], then probabilities
  uint8_t* p;        // [queries][kKeyTile] codes of probability times value scale
  float* p_scale;    // [queries]
  int32_t* p_start;  // [queries] -kValueBias * sum of the codes, likewise for values
};

// Query i stands in row i / heads.
static inline AttentionScratch attention_arrays(const AttentionTask& t) {
  const int64_t queries = static_cast<int64_t>(t.count) * t.heads, padded = round_up(queries, 16);
  AttentionScratch s;
  float* at = t.scratch;
  s.score = at, at += queries * kKeyTile;
  s.q = at, s.q_codes = reinterpret_cast<int8_t*>(at), at += queries * (kQueryBytes / 4);
  s.record = reinterpret_cast<float**>(at), at += 2 * padded;
  s.q_scale = at, at += padded;
  s.q_start = reinterpret_cast<int32_t*>(at), at += padded;
  s.p_scale = at, at += padded;
  s.p_start = reinterpret_cast<int32_t*>(at), at += padded;
  s.p = reinterpret_cast<uint8_t*>(at);
  for (int i = 0; i < t.count; ++i) {
    for (int h = 0; h < t.heads; ++h) {
      s.record[i * t.heads + h] = t.records + i * t.record_stride + h * record_floats(t.head_dim);
    }
  }
  return s;
}

// Calls body(i, its head_dim floats) for every query.
template <class Body>
static inline void each_query(const AttentionTask& t, Body body) {
  for (int i = 0; i < t.count; ++i) {
    for (int h = 0; h < t.heads; ++h) body(i * t.heads + h, t.q + i * t.q_stride + h * t.head_dim);
  }
}

static inline float* sum_of(float* record, int head_dim) { return record + value_width(head_dim); }
static inline const float* sum_of(const float* record, int head_dim) {
  return record + value_width(head_dim);
}

static inline void clear_record(float* record, int head_dim) {
  for (int64_t i = 0; i < value_width(head_dim) + 16; i += 16) store(record + i, set1(0.0f));
  store(sum_of(record, head_dim) + 16, set1(-__builtin_inff()));
}

// A tile of a task: positions start .. start + 63, of which the task's rows together see from .. to - 1.
struct KeyTile {
  int64_t start, at, next;  // row of the ring; row of the tile behind, or -1
  int from, to;
  int first_vec() const { return from / 16; }
  int end_vec() const { return (to + 15) / 16; }
};

static inline int clamp_key(int64_t key) {
  return key < 0 ? 0 : key > kKeyTile ? kKeyTile : static_cast<int>(key);
}

template <class Body>
static inline void each_tile(const AttentionTask& t, Body body) {
  const int64_t begin = t.begin > t.first ? t.begin : t.first;
  const int64_t behind = t.last + t.count < t.end ? t.last + t.count : t.end;
  for (int64_t start = begin / kKeyTile * kKeyTile; start < behind; start += kKeyTile) {
    const int64_t next = start + kKeyTile;
    body(KeyTile{start, start % t.slot.rows, next < behind ? next % t.slot.rows : -1,
                 clamp_key(begin - start), clamp_key(behind - start)});
  }
}

// Calls body(i, Rows<R>) for blocks of about equal size of n queries, R at most Maximum.
template <int Maximum, class Body>
static inline void each_block(int n, Body body) {
  const int blocks = (n + Maximum - 1) / Maximum, size = (n + blocks - 1) / blocks;
  for (int i = 0; i < n; i += size) {
    with_rows<Maximum>(size < n - i ? size : n - i, [&](auto rows) { body(i, rows); });
  }
}

// x where lane from .. to - 1, else `other`.
static inline F only_lanes(F x, int from, int to, float other) {
  static const float lane[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const F i = load(lane), none = set1(other);
  return select_less(i, set1(static_cast<float>(from)), none,
                     select_less(i, set1(static_cast<float>(to)), x, none));
}

// A query's scores of a tile, in units of ln 2, become probabilities p relative to the record's top; where
// they exceed that, the record so far is brought to the new top first. Keys from .. to - 1 are seen.
static inline void tile_probabilities(const float* score, int from, int to, int head_dim, float* record,
                                      F* p) {
  float *sum = sum_of(record, head_dim), *top = sum + 16;
  const bool whole = from == 0 && to == kKeyTile;
  for (int c = 0; c < kTileVecs; ++c) {
    p[c] = load(score + 16 * c);
    if (!whole) p[c] = only_lanes(p[c], from - 16 * c, to - 16 * c, -__builtin_inff());
  }
  const F high = max(max(p[0], p[1]), max(p[2], p[3]));
  if (any_less(load(top), high)) {
    const F new_top = set1(reduce_max(high)), factor = weight16(sub(load(top), new_top));
    for (float* at = record; at <= sum; at += 16) store(at, mul(load(at), factor));
    store(top, new_top);
  }
  const F origin = load(top);
  for (int c = 0; c < kTileVecs; ++c) {
    p[c] = weight16(sub(p[c], origin));
    if (!whole) p[c] = only_lanes(p[c], from - 16 * c, to - 16 * c, 0.0f);
  }
  store(sum, add(load(sum), add(add(p[0], p[1]), add(p[2], p[3]))));
}

// Calls body(i, p) with the probabilities of every query's tile.
template <class Body>
static inline void each_probability(const AttentionTask& t, const AttentionScratch& s, const KeyTile& tile,
                                    Body body) {
  for (int row = 0, i = 0; row < t.count; ++row) {
    const int from = clamp_key(t.first + row - tile.start), to = clamp_key(t.last + row + 1 - tile.start);
    for (int h = 0; h < t.heads; ++h, ++i) {
      F p[kTileVecs];
      tile_probabilities(s.score + i * kKeyTile, from, to, t.head_dim, s.record[i], p);
      body(i, p);
    }
  }
}
