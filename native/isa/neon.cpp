// NEON of ARMv8.0: 16 lanes in four registers, products of int8 codes in int16.
#include <arm_neon.h>

#include "contract.h"
#include "kernels/cells.h"
#include "kernels/half.h"
#include "kernels/prefetch.h"

namespace geminate::neon {

constexpr const char* kIsaName = "neon";
constexpr int kRowBlock = 2, kNibbleRows = 2, kHalfBlock = 6, kHalfVecs = 1, kCodeBlock = 2, kCodeVecs = 1,
              kCodeRows = 16, kPairRows = 0, kValueBias = 0;

#include "isa/lanes128.h"

struct Four {
  int8x16_t v;  // over and over
};
static inline Four four_codes(const void* x) {
  int32_t four;
  __builtin_memcpy(&four, x, 4);
  return {vreinterpretq_s8_s32(vdupq_n_s32(four))};
}
static inline I zero_sums() { return same_sums(0); }

using W8 = Codes;
using W4 = Codes;
using V8 = Codes;
using Acc4 = I;

static inline I start8(int32_t) { return zero_sums(); }
static inline W8 load_w8(const uint8_t* w) { return flipped(load_64(w)); }
// Sizes are at most 127, or one of them 15: two products fit an int16.
static inline int32x4_t dot(int32x4_t sum, int8x16_t w, int8x16_t x) {
  const int16x8_t low = vmull_s8(vget_low_s8(w), vget_low_s8(x)), high = vmull_high_s8(w, x);
  return vpadalq_s16(sum, vpaddq_s16(low, high));
}
static inline I dot_w8(I sum, W8 w, Four x) {
  return {dot(sum.a, w.a, x.v), dot(sum.b, w.b, x.v), dot(sum.c, w.c, x.v), dot(sum.d, w.d, x.v)};
}
static inline I dot8(I sum, W8 w, const int8_t* x) { return dot_w8(sum, w, four_codes(x)); }
static inline Acc4 start4(int32_t start) { return same_sums(start); }
static inline void load_w4(const uint8_t* w, W4* low, W4* high) {
  const Codes pairs = load_64(w);
  *low = {low_nibbles(pairs.a), low_nibbles(pairs.b), low_nibbles(pairs.c), low_nibbles(pairs.d)};
  *high = {high_nibbles(pairs.a), high_nibbles(pairs.b), high_nibbles(pairs.c), high_nibbles(pairs.d)};
}
static inline Acc4 dot4(Acc4 sum, W4 w, const int8_t* x) { return dot8(sum, w, x); }
static inline I finish4(Acc4 sum, int32_t) { return sum; }
static inline V8 load_v8(const int8_t* v) { return load_64(v); }
// x unsigned, less 128 here; 128 v is added again.
static inline int32x4_t dot_unsigned(int32x4_t sum, int8x16_t v, int8x16_t x) {
  const int8x8_t v_low = vget_low_s8(v);
  const int16x8_t low = vmlal_s8(vshll_n_s8(v_low, 7), v_low, vget_low_s8(x));
  const int16x8_t high = vmlal_high_s8(vshll_high_n_s8(v, 7), v, x);
  return vaddq_s32(sum, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)));
}
static inline I dot_v8(I sum, V8 v, Four four) {
  const int8x16_t x = flipped(four.v);
  return {dot_unsigned(sum.a, v.a, x), dot_unsigned(sum.b, v.b, x), dot_unsigned(sum.c, v.c, x),
          dot_unsigned(sum.d, v.d, x)};
}

template <int Word>
static inline int8x16_t word_of(int8x16_t low, int8x16_t high) {
  return vreinterpretq_s8_s32(vdupq_laneq_s32(vreinterpretq_s32_s8(Word < 4 ? low : high), Word % 4));
}
template <int... Words>
static inline int32x4_t dot_small(int32x4_t sum, const int8x16_t (&w)[8], int8x16_t x, int8x16_t y) {
  int16x8_t low = vdupq_n_s16(0), high = low;  // at most 8 * 15 * 128
  const auto add = [&](int8x16_t codes, int8x16_t four) {
    low = vmlal_s8(low, vget_low_s8(codes), vget_low_s8(four));
    high = vmlal_high_s8(high, codes, four);
  };
  (add(w[Words], word_of<Words>(x, y)), ...);
  return vpadalq_s16(sum, vpaddq_s16(low, high));
}
template <int... Words>
static inline int32x4_t dot_bytes(int32x4_t sum, const int8x16_t (&w)[8], int8x16_t x, int8x16_t y) {
  int32x4_t low = vdupq_n_s32(0), high = low;
  const auto add = [&](int8x16_t codes, int8x16_t four) {
    low = vpadalq_s16(low, vmull_s8(vget_low_s8(codes), vget_low_s8(four)));
    high = vpadalq_s16(high, vmull_high_s8(codes, four));
  };
  (add(w[Words], word_of<Words>(x, y)), ...);
  return vaddq_s32(sum, vpaddq_s32(low, high));
}
// Four rows of 32 signed codes, four columns a register, times 32 activations. Small: codes are below 16.
template <bool Small>
static inline int32x4_t dot32(int32x4_t sum, const int8x16_t (&w)[8], int8x16_t low, int8x16_t high) {
  if constexpr (Small) {
    return dot_small<0, 1, 2, 3, 4, 5, 6, 7>(sum, w, low, high);
  } else {
    return dot_bytes<0, 1, 2, 3, 4, 5, 6, 7>(sum, w, low, high);
  }
}

template <bool Small>
static inline void dot32_twice(int32x4_t& a, int32x4_t& b, const int8x16_t (&w)[8], const int8_t* x,
                               const int8_t* y) {
  a = dot32<Small>(a, w, load_codes(x), load_codes(x + 16));
  b = dot32<Small>(b, w, load_codes(y), load_codes(y + 16));
}

#include "isa/neon_rows.h"

static bool own_products(const Matrix& w, const TileRange& range, const GroupRange& groups,
                         const QuantGroup* panel, int64_t rows, float* out, int64_t out_stride, float scale);
#include "isa/neon_cells.h"
#include "kernels/kernels_impl.h"
#include "isa/neon_groups.h"

static bool own_products(const Matrix& w, const TileRange& range, const GroupRange& groups,
                         const QuantGroup* panel, int64_t rows, float* out, int64_t out_stride, float scale) {
  return rows_of_groups(w, range, groups, panel, rows, out, out_stride, scale);
}

}  // namespace geminate::neon

namespace geminate {
const Kernels* neon_kernels() { return &neon::kTable; }
}  // namespace geminate
