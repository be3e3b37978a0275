// NEON with FEAT_DotProd (Cortex-A75 and later, Apple A13 and later): sdot and udot for the integer products.
#include <arm_neon.h>

#include "contract.h"
#include "kernels/cells.h"
#include "kernels/half.h"
#include "kernels/prefetch.h"

namespace geminate::neon_dotprod {

constexpr const char* kIsaName = "neon-dotprod";
constexpr int kRowBlock = 2, kNibbleRows = 2, kHalfBlock = 6, kHalfVecs = 1, kCodeBlock = 6, kCodeVecs = 1,
              kCodeRows = 16, kPairRows = 0, kValueBias = 128;

#include "isa/lanes128.h"
#include "isa/neon_dots.h"

using W8 = Codes;
struct V8 {  // with 128 added: udot wants both sides unsigned
  uint8x16_t a, b, c, d;
};

static inline I start8(int32_t) { return zero_sums(); }
static inline W8 load_w8(const uint8_t* w) { return flipped(load_64(w)); }
static inline I dot_w8(I sum, W8 w, Four x) { return dot(sum, w, x.v); }
static inline I dot8(I sum, W8 w, const int8_t* x) { return dot_w8(sum, w, four_codes(x)); }
static inline V8 load_v8(const int8_t* v) {
  const Codes codes = flipped(load_64(v));
  return {vreinterpretq_u8_s8(codes.a), vreinterpretq_u8_s8(codes.b), vreinterpretq_u8_s8(codes.c),
          vreinterpretq_u8_s8(codes.d)};
}
static inline I dot_v8(I sum, V8 v, Four four) {
  const uint8x8_t x = vreinterpret_u8_s8(four.v);
  const auto add = [x](int32x4_t to, uint8x16_t codes) {
    return vreinterpretq_s32_u32(vdotq_lane_u32(vreinterpretq_u32_s32(to), codes, x, 0));
  };
  return {add(sum.a, v.a), add(sum.b, v.b), add(sum.c, v.c), add(sum.d, v.d)};
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

}  // namespace geminate::neon_dotprod

namespace geminate {
const Kernels* neon_dotprod_kernels() { return &neon_dotprod::kTable; }
}  // namespace geminate
