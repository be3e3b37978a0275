// What attention over both formats of keys and values shares. Included by kernels_impl.h.
//
// Online softmax over tiles of 64 absolute positions, all queries of a task tile by tile: memory is read
// once. Scores outside a row's own positions are replaced, never multiplied, so a row's bits do not depend on
// what a rejected draft left in the cache. A masked key of a later row of the same task adds an exact zero.

constexpr int kTileVecs = kKeyTile / 16;
constexpr float kLog2E = 1.44269504088896341f;

struct AttentionScratch {
  float* q;          // float16: [queries][round_up(head_dim, 32)], in units that make a score a power of two
  int8_t* q_codes;   // int8: [queries][round_up(head_dim, 32)] codes of the turned queries
  float* q_scale;    // [queries]
  int32_t* q_start;  // [queries] -128 * sum of the codes, which cancels the 128 added to keys
  float* score;      // [queries][kKeyTile], then probabilities
  uint8_t* p;        // [queries][kKeyTile] codes of probability times value scale
  float* p_scale;    // [queries]
  float* panel;      // [kKeyTile][kKeyTile] part of a tile in float32
};

static inline AttentionScratch attention_arrays(const AttentionTask& t) {
  const int64_t queries = static_cast<int64_t>(t.count) * t.heads, padded = round_up(queries, 16);
  AttentionScratch s;
  float* at = t.scratch;
  s.panel = at, at += kKeyTile * kKeyTile;
  s.score = at, at += queries * kKeyTile;
  s.p = reinterpret_cast<uint8_t*>(at), at += queries * (kKeyTile / 4);
  s.q_scale = at, at += padded;
  s.q_start = reinterpret_cast<int32_t*>(at), at += padded;
  s.p_scale = at, at += padded;
  s.q = at;
  s.q_codes = reinterpret_cast<int8_t*>(at);
  return s;
}

// Query i stands in row i / heads.
static inline float* record_of(const AttentionTask& t, int i) {
  return t.records + i / t.heads * t.record_stride + i % t.heads * record_floats(t.head_dim);
}
static inline const float* query_of(const AttentionTask& t, int i) {
  return t.q + i / t.heads * t.q_stride + i % t.heads * t.head_dim;
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

// Calls body(v, Rows<B>) for vectors begin .. end-1, B at most kPanelVecs together.
template <class Body>
static inline void each_vec(int begin, int end, Body body) {
  for (int v = begin; v < end; v += kPanelVecs) {
    with_rows<kPanelVecs>(end - v, [&](auto vecs) { body(v, vecs); });
  }
}

// x where lane from .. to - 1, else `other`.
static inline F only_lanes(F x, int from, int to, float other) {
  static const float lane[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const F i = load(lane), none = set1(other);
  return select_less(i, set1(static_cast<float>(from)), none,
                     select_less(i, set1(static_cast<float>(to)), x, none));
}

// Turns query i's scores of a tile, in units of ln 2, into probabilities relative to the record's top; where
// they exceed that, the record so far is brought to the new top first.
static inline void tile_probabilities(const AttentionTask& t, const KeyTile& tile, int i, float* score) {
  float* record = record_of(t, i);
  float *sum = sum_of(record, t.head_dim), *top = sum + 16;
  const int from = clamp_key(t.first + i / t.heads - tile.start);
  const int to = clamp_key(t.last + i / t.heads + 1 - tile.start);
  const bool whole = from == 0 && to == kKeyTile;
  F x[kTileVecs];
  for (int c = 0; c < kTileVecs; ++c) {
    x[c] = load(score + 16 * c);
    if (!whole) x[c] = only_lanes(x[c], from - 16 * c, to - 16 * c, -__builtin_inff());
  }
  const F high = max(max(x[0], x[1]), max(x[2], x[3]));
  if (any_less(load(top), high)) {
    const F new_top = set1(reduce_max(high)), factor = weight16(sub(load(top), new_top));
    for (float* at = record; at <= sum; at += 16) store(at, mul(load(at), factor));
    store(top, new_top);
  }
  const F origin = load(top);
  for (int c = 0; c < kTileVecs; ++c) {
    x[c] = weight16(sub(x[c], origin));
    if (!whole) x[c] = only_lanes(x[c], from - 16 * c, to - 16 * c, 0.0f);
    store(score + 16 * c, x[c]);
  }
  store(sum, add(load(sum), add(add(x[0], x[1]), add(x[2], x[3]))));
}
