// NEON with FEAT_DotProd and FEAT_I8MM (Cortex-X2, Neoverse V1 and later, Apple A15 and later): smmla for two
// and more rows of activations, sdot for a single one, usdot and sudot for attention.
#include <arm_neon.h>

#include "contract.h"
#include "kernels/cells.h"
#include "kernels/half.h"
#include "kernels/prefetch.h"

namespace geminate::neon_i8mm {

constexpr const char* kIsaName = "neon-i8mm";
constexpr int kRowBlock = 2, kNibbleRows = 2, kHalfBlock = 6, kHalfVecs = 1, kCodeBlock = 6, kCodeVecs = 1,
              kCodeRows = 16, kPairRows = 0, kValueBias = 0;

#include "isa/lanes128.h"
#include "isa/neon_dots.h"

struct W8 {
  uint8x16_t a, b, c, d;
};
using V8 = Codes;

static inline I start8(int32_t start) { return same_sums(start); }
static inline W8 load_w8(const uint8_t* w) {
  return {vld1q_u8(w), vld1q_u8(w + 16), vld1q_u8(w + 32), vld1q_u8(w + 48)};
}
static inline I dot_w8(I sum, W8 w, Four x) {
  return {vusdotq_lane_s32(sum.a, w.a, x.v, 0), vusdotq_lane_s32(sum.b, w.b, x.v, 0),
          vusdotq_lane_s32(sum.c, w.c, x.v, 0), vusdotq_lane_s32(sum.d, w.d, x.v, 0)};
}
static inline I dot8(I sum, W8 w, const int8_t* x) { return dot_w8(sum, w, four_codes(x)); }
static inline V8 load_v8(const int8_t* v) { return load_64(v); }
static inline I dot_v8(I sum, V8 v, Four four) {
  const uint8x8_t x = vreinterpret_u8_s8(four.v);
  return {vsudotq_lane_s32(sum.a, v.a, x, 0), vsudotq_lane_s32(sum.b, v.b, x, 0),
          vsudotq_lane_s32(sum.c, v.c, x, 0), vsudotq_lane_s32(sum.d, v.d, x, 0)};
}

#include "isa/neon_rows.h"

static bool own_products(const Matrix& w, const TileRange& range, const GroupRange& groups,
                         const QuantGroup* panel, int64_t rows, float* out, int64_t out_stride, float scale);
#include "isa/neon_cells.h"
#include "kernels/kernels_impl.h"
#include "isa/neon_groups.h"
#include "isa/neon_pairs.h"

static bool own_products(const Matrix& w, const TileRange& range, const GroupRange& groups,
                         const QuantGroup* panel, int64_t rows, float* out, int64_t out_stride, float scale) {
  const auto multiply = rows < 2 ? rows_of_groups : pairs_of_groups;
  return multiply(w, range, groups, panel, rows, out, out_stride, scale);
}

}  // namespace geminate::neon_i8mm

namespace geminate {
const Kernels* neon_i8mm_kernels() { return &neon_i8mm::kTable; }
}  // namespace geminate
