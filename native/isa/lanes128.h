// 16 lanes of float or int32 in four 128-bit registers: what the NEON sets share. Included inside the
// namespace of each.

struct F {
  float32x4_t a, b, c, d;
};
struct I {
  int32x4_t a, b, c, d;
};

static inline F load(const float* x) {
  return {vld1q_f32(x), vld1q_f32(x + 4), vld1q_f32(x + 8), vld1q_f32(x + 12)};
}
static inline void store(float* x, F v) {
  vst1q_f32(x, v.a);
  vst1q_f32(x + 4, v.b);
  vst1q_f32(x + 8, v.c);
  vst1q_f32(x + 12, v.d);
}
static inline F load_part(const float* x, int n) {
  float part[16] = {};
  __builtin_memcpy(part, x, static_cast<uint64_t>(n) * sizeof(float));
  return load(part);
}
static inline void store_part(float* x, F v, int n) {
  float part[16];
  store(part, v);
  __builtin_memcpy(x, part, static_cast<uint64_t>(n) * sizeof(float));
}
static inline F set1(float x) {
  const float32x4_t v = vdupq_n_f32(x);
  return {v, v, v, v};
}
static inline F add(F x, F y) {
  return {vaddq_f32(x.a, y.a), vaddq_f32(x.b, y.b), vaddq_f32(x.c, y.c), vaddq_f32(x.d, y.d)};
}
static inline F sub(F x, F y) {
  return {vsubq_f32(x.a, y.a), vsubq_f32(x.b, y.b), vsubq_f32(x.c, y.c), vsubq_f32(x.d, y.d)};
}
static inline F mul(F x, F y) {
  return {vmulq_f32(x.a, y.a), vmulq_f32(x.b, y.b), vmulq_f32(x.c, y.c), vmulq_f32(x.d, y.d)};
}
static inline F div(F x, F y) {
  return {vdivq_f32(x.a, y.a), vdivq_f32(x.b, y.b), vdivq_f32(x.c, y.c), vdivq_f32(x.d, y.d)};
}
static inline F fma(F x, F y, F z) {
  return {vfmaq_f32(z.a, x.a, y.a), vfmaq_f32(z.b, x.b, y.b), vfmaq_f32(z.c, x.c, y.c),
          vfmaq_f32(z.d, x.d, y.d)};
}
static inline F sqrt(F x) { return {vsqrtq_f32(x.a), vsqrtq_f32(x.b), vsqrtq_f32(x.c), vsqrtq_f32(x.d)}; }
// fmax and fmin treat NaN and signed zeros otherwise than the other sets.
static inline float32x4_t larger(float32x4_t x, float32x4_t y) { return vbslq_f32(vcgtq_f32(x, y), x, y); }
static inline float32x4_t smaller(float32x4_t x, float32x4_t y) { return vbslq_f32(vcltq_f32(x, y), x, y); }
static inline F max(F x, F y) {
  return {larger(x.a, y.a), larger(x.b, y.b), larger(x.c, y.c), larger(x.d, y.d)};
}
static inline F min(F x, F y) {
  return {smaller(x.a, y.a), smaller(x.b, y.b), smaller(x.c, y.c), smaller(x.d, y.d)};
}
static inline F abs(F x) { return {vabsq_f32(x.a), vabsq_f32(x.b), vabsq_f32(x.c), vabsq_f32(x.d)}; }
static inline float32x4_t copy_sign(float32x4_t size, float32x4_t sign) {
  return vbslq_f32(vdupq_n_u32(0x80000000u), sign, size);
}
static inline F copy_sign(F size, F sign) {
  return {copy_sign(size.a, sign.a), copy_sign(size.b, sign.b), copy_sign(size.c, sign.c),
          copy_sign(size.d, sign.d)};
}
static inline F round_even(F x) {
  return {vrndnq_f32(x.a), vrndnq_f32(x.b), vrndnq_f32(x.c), vrndnq_f32(x.d)};
}
static inline F select_less(F x, F y, F yes, F no) {
  return {vbslq_f32(vcltq_f32(x.a, y.a), yes.a, no.a), vbslq_f32(vcltq_f32(x.b, y.b), yes.b, no.b),
          vbslq_f32(vcltq_f32(x.c, y.c), yes.c, no.c), vbslq_f32(vcltq_f32(x.d, y.d), yes.d, no.d)};
}
static inline float32x4_t pow2(float32x4_t n) {
  return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127)), 23));
}
static inline F pow2(F n) { return {pow2(n.a), pow2(n.b), pow2(n.c), pow2(n.d)}; }
static inline F times_pow2(F x, F n) { return mul(x, pow2(n)); }
static inline bool any_less(F x, F y) {
  const uint32x4_t low = vorrq_u32(vcltq_f32(x.a, y.a), vcltq_f32(x.b, y.b));
  const uint32x4_t high = vorrq_u32(vcltq_f32(x.c, y.c), vcltq_f32(x.d, y.d));
  return vmaxvq_u32(vorrq_u32(low, high)) != 0;
}

// The tree all ISAs share: i with i+8, then i+4, i+2, i+1.
static inline float reduce_add(F x) {
  const float32x4_t four = vaddq_f32(vaddq_f32(x.a, x.c), vaddq_f32(x.b, x.d));
  const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
static inline float reduce_max(F x) {
  const float32x4_t four = larger(larger(x.a, x.c), larger(x.b, x.d));
  const float32x4_t two = larger(four, vextq_f32(four, four, 2));
  const float low = vgetq_lane_f32(two, 0), high = vgetq_lane_f32(two, 1);
  return low > high ? low : high;
}
template <int H>
static inline float32x4_t butterfly(float32x4_t x) {
  constexpr uint32_t kAll = 0xFFFFFFFFu;
  constexpr uint32_t kUpper[4] = {0, H == 1 ? kAll : 0, H == 2 ? kAll : 0, kAll};
  const float32x4_t other = H == 1 ? vrev64q_f32(x) : vextq_f32(x, x, 2);
  return vbslq_f32(vld1q_u32(kUpper), vsubq_f32(other, x), vaddq_f32(x, other));
}
template <int H>
static inline F butterfly(F x) {
  if constexpr (H == 8) {
    return {vaddq_f32(x.a, x.c), vaddq_f32(x.b, x.d), vsubq_f32(x.a, x.c), vsubq_f32(x.b, x.d)};
  } else if constexpr (H == 4) {
    return {vaddq_f32(x.a, x.b), vsubq_f32(x.a, x.b), vaddq_f32(x.c, x.d), vsubq_f32(x.c, x.d)};
  } else {
    return {butterfly<H>(x.a), butterfly<H>(x.b), butterfly<H>(x.c), butterfly<H>(x.d)};
  }
}

static inline float32x4_t widen_halves(const uint16_t* x) {
  return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(x)));
}
static inline F load_half(const uint16_t* x) {
  return {widen_halves(x), widen_halves(x + 4), widen_halves(x + 8), widen_halves(x + 12)};
}
static inline void store_halves(uint16_t* x, float32x4_t v) {
  vst1_u16(x, vreinterpret_u16_f16(vcvt_f16_f32(v)));
}
static inline void store_half(uint16_t* x, F v) {
  store_halves(x, v.a);
  store_halves(x + 4, v.b);
  store_halves(x + 8, v.c);
  store_halves(x + 12, v.d);
}
static inline F load_bf16(const uint16_t* x) {
  const uint16x8_t zero = vdupq_n_u16(0), low = vld1q_u16(x), high = vld1q_u16(x + 8);
  return {vreinterpretq_f32_u16(vzip1q_u16(zero, low)), vreinterpretq_f32_u16(vzip2q_u16(zero, low)),
          vreinterpretq_f32_u16(vzip1q_u16(zero, high)), vreinterpretq_f32_u16(vzip2q_u16(zero, high))};
}

static inline float32x4_t wide(int16x4_t x) { return vcvtq_f32_s32(vmovl_s16(x)); }
static inline F wide(int16x8_t low, int16x8_t high) {
  return {wide(vget_low_s16(low)), wide(vget_high_s16(low)), wide(vget_low_s16(high)),
          wide(vget_high_s16(high))};
}
static inline F load_u8(const uint8_t* x) {
  const uint8x16_t v = vld1q_u8(x);
  return wide(vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(v))), vreinterpretq_s16_u16(vmovl_high_u8(v)));
}
static inline F load_s8(const uint8_t* x) {
  const int8x16_t v = vreinterpretq_s8_u8(vld1q_u8(x));
  return wide(vmovl_s8(vget_low_s8(v)), vmovl_high_s8(v));
}

// Eight values, at least -128 and at most 127 once rounded, as int16. NaN is -128, as in the other sets.
static inline int16x8_t whole(float32x4_t x, float32x4_t y) {
  const float32x4_t least = vdupq_n_f32(-128.0f);
  return vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(larger(x, least))),
                      vqmovn_s32(vcvtnq_s32_f32(larger(y, least))));
}
static inline int32_t quantize_lanes(F x, F y, int8_t* out) {
  const int8x16_t low = vcombine_s8(vqmovn_s16(whole(x.a, x.b)), vqmovn_s16(whole(x.c, x.d)));
  const int8x16_t high = vcombine_s8(vqmovn_s16(whole(y.a, y.b)), vqmovn_s16(whole(y.c, y.d)));
  vst1q_s8(out, low);
  vst1q_s8(out + 16, high);
  return vaddlvq_s8(low) + vaddlvq_s8(high);
}
static inline uint8x16_t bytes_of(F x) {
  return vcombine_u8(vqmovun_s16(whole(x.a, x.b)), vqmovun_s16(whole(x.c, x.d)));
}
static inline void store_u8(uint8_t* out, F x, F y, F z, F w) {
  vst1q_u8(out, bytes_of(x));
  vst1q_u8(out + 16, bytes_of(y));
  vst1q_u8(out + 32, bytes_of(z));
  vst1q_u8(out + 48, bytes_of(w));
}

static inline F to_float(I x) {
  return {vcvtq_f32_s32(x.a), vcvtq_f32_s32(x.b), vcvtq_f32_s32(x.c), vcvtq_f32_s32(x.d)};
}
static inline I same_sums(int32_t sum) {
  const int32x4_t v = vdupq_n_s32(sum);
  return {v, v, v, v};
}

// 64 codes, four for each lane.
struct Codes {
  int8x16_t a, b, c, d;
};
static inline int8x16_t load_codes(const void* x) { return vld1q_s8(static_cast<const int8_t*>(x)); }
// Unsigned codes with 128 added, made signed; and the other way round.
static inline int8x16_t flipped(int8x16_t x) { return veorq_s8(x, vdupq_n_s8(-128)); }
static inline Codes load_64(const void* x) {
  const int8_t* from = static_cast<const int8_t*>(x);
  return {vld1q_s8(from), vld1q_s8(from + 16), vld1q_s8(from + 32), vld1q_s8(from + 48)};
}
static inline Codes flipped(Codes x) { return {flipped(x.a), flipped(x.b), flipped(x.c), flipped(x.d)}; }
static inline int8x16_t low_nibbles(int8x16_t x) { return vandq_s8(x, vdupq_n_s8(15)); }
static inline int8x16_t high_nibbles(int8x16_t x) {
  return vreinterpretq_s8_u8(vshrq_n_u8(vreinterpretq_u8_s8(x), 4));
}
