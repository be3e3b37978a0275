// Products of codes by sdot or udot: what the NEON sets with FEAT_DotProd share. Included behind lanes128.h.

struct Four {
  int8x8_t v;  // the four codes in front
};
// Through a float: one load, where broadcasting would take a vector instruction as well.
static inline Four four_codes(const void* x) {
  float four;
  __builtin_memcpy(&four, x, 4);
  return {vreinterpret_s8_f32(float32x2_t{four, 0.0f})};
}

static inline I dot(I sum, Codes w, int8x8_t x) {
  return {vdotq_lane_s32(sum.a, w.a, x, 0), vdotq_lane_s32(sum.b, w.b, x, 0),
          vdotq_lane_s32(sum.c, w.c, x, 0), vdotq_lane_s32(sum.d, w.d, x, 0)};
}
static inline I zero_sums() { return same_sums(0); }

using W4 = Codes;
using Acc4 = I;
static inline Acc4 start4(int32_t start) { return same_sums(start); }
static inline void load_w4(const uint8_t* w, W4* low, W4* high) {
  const Codes pairs = load_64(w);
  *low = {low_nibbles(pairs.a), low_nibbles(pairs.b), low_nibbles(pairs.c), low_nibbles(pairs.d)};
  *high = {high_nibbles(pairs.a), high_nibbles(pairs.b), high_nibbles(pairs.c), high_nibbles(pairs.d)};
}
static inline Acc4 dot4(Acc4 sum, W4 w, const int8_t* x) { return dot(sum, w, four_codes(x).v); }
static inline I finish4(Acc4 sum, int32_t) { return sum; }

// Four rows of 32 signed codes, four columns a register, times 32 activations.
template <bool Small>
static inline int32x4_t dot32(int32x4_t sum, const int8x16_t (&w)[8], int8x16_t low, int8x16_t high) {
  sum = vdotq_laneq_s32(sum, w[0], low, 0);
  sum = vdotq_laneq_s32(sum, w[1], low, 1);
  sum = vdotq_laneq_s32(sum, w[2], low, 2);
  sum = vdotq_laneq_s32(sum, w[3], low, 3);
  sum = vdotq_laneq_s32(sum, w[4], high, 0);
  sum = vdotq_laneq_s32(sum, w[5], high, 1);
  sum = vdotq_laneq_s32(sum, w[6], high, 2);
  return vdotq_laneq_s32(sum, w[7], high, 3);
}
// Two rows of activations.
template <bool Small>
static inline void dot32_twice(int32x4_t& a, int32x4_t& b, const int8x16_t (&w)[8], const int8_t* x,
                               const int8_t* y) {
  const int8x16_t x_low = load_codes(x), y_low = load_codes(y);
  a = vdotq_laneq_s32(a, w[0], x_low, 0), b = vdotq_laneq_s32(b, w[0], y_low, 0);
  a = vdotq_laneq_s32(a, w[1], x_low, 1), b = vdotq_laneq_s32(b, w[1], y_low, 1);
  a = vdotq_laneq_s32(a, w[2], x_low, 2), b = vdotq_laneq_s32(b, w[2], y_low, 2);
  a = vdotq_laneq_s32(a, w[3], x_low, 3), b = vdotq_laneq_s32(b, w[3], y_low, 3);
  const int8x16_t x_high = load_codes(x + 16), y_high = load_codes(y + 16);
  a = vdotq_laneq_s32(a, w[4], x_high, 0), b = vdotq_laneq_s32(b, w[4], y_high, 0);
  a = vdotq_laneq_s32(a, w[5], x_high, 1), b = vdotq_laneq_s32(b, w[5], y_high, 1);
  a = vdotq_laneq_s32(a, w[6], x_high, 2), b = vdotq_laneq_s32(b, w[6], y_high, 2);
  a = vdotq_laneq_s32(a, w[7], x_high, 3), b = vdotq_laneq_s32(b, w[7], y_high, 3);
}
