// AVX2 with FMA and F16C: 16 lanes in two registers, vpmaddubsw + vpmaddwd for the integer products.
#include <immintrin.h>

#include "contract.h"
#include "kernels/half.h"
#include "kernels/prefetch.h"

namespace geminate::avx2 {

constexpr const char* kIsaName = "avx2";
constexpr int kRowBlock = 2, kHalfBlock = 6, kHalfVecs = 1, kCodeBlock = 4, kCodeVecs = 1, kCodeRows = 4,
              kPairRows = 0;

struct F {
  __m256 a, b;
};
struct I {
  __m256i a, b;
};
struct Acc4 {  // int16 pairs: 8 steps of at most 2 * 15 * 127 stay below 32768
  __m256i a, b;
};
struct W8 {
  __m256i a, b, size_a, size_b;  // signed codes and their magnitudes
};
struct W4 {
  __m256i a, b;
};
struct Four {
  __m256i v;
};
struct V8 {  // int16 codes: bytes 0 and 2, bytes 1 and 3 of each lane
  __m256i even_a, odd_a, even_b, odd_b;
};

static inline __m256i first(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

static inline F load(const float* x) { return {_mm256_loadu_ps(x), _mm256_loadu_ps(x + 8)}; }
static inline F load_part(const float* x, int n) {
  return {_mm256_maskload_ps(x, first(n)), _mm256_maskload_ps(x + 8, first(n - 8))};
}
static inline void store(float* x, F a) {
  _mm256_storeu_ps(x, a.a);
  _mm256_storeu_ps(x + 8, a.b);
}
static inline void store_part(float* x, F a, int n) {
  _mm256_maskstore_ps(x, first(n), a.a);
  _mm256_maskstore_ps(x + 8, first(n - 8), a.b);
}
static inline F set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
static inline F add(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
static inline F sub(F x, F y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
static inline F mul(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
static inline F div(F x, F y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
static inline F fma(F x, F y, F z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
static inline F sqrt(F x) { return {_mm256_sqrt_ps(x.a), _mm256_sqrt_ps(x.b)}; }
static inline F max(F x, F y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
static inline F min(F x, F y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
static inline F abs(F x) {
  const __m256 mask = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(mask, x.a), _mm256_andnot_ps(mask, x.b)};
}
static inline F copy_sign(F size, F sign) {
  const __m256 mask = _mm256_set1_ps(-0.0f);
  const F bare = abs(size);
  return {_mm256_or_ps(bare.a, _mm256_and_ps(mask, sign.a)),
          _mm256_or_ps(bare.b, _mm256_and_ps(mask, sign.b))};
}
static inline F round_even(F x) {
  return {_mm256_round_ps(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
          _mm256_round_ps(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
static inline F select_less(F x, F y, F yes, F no) {
  return {_mm256_blendv_ps(no.a, yes.a, _mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ)),
          _mm256_blendv_ps(no.b, yes.b, _mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ))};
}
static inline __m256 pow2(__m256 n) {
  const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
}
static inline F pow2(F n) { return {pow2(n.a), pow2(n.b)}; }
static inline F times_pow2(F x, F n) { return mul(x, pow2(n)); }
static inline bool any_less(F x, F y) {
  const __m256 a = _mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ), b = _mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ);
  return _mm256_movemask_ps(_mm256_or_ps(a, b)) != 0;
}

// The tree all ISAs share: i with i+8, then i+4, i+2, i+1.
static inline float reduce_add(F x) {
  const __m256 eight = _mm256_add_ps(x.a, x.b);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
static inline float reduce_max(F x) {
  const __m256 eight = _mm256_max_ps(x.a, x.b);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
template <int H>
static inline __m256 butterfly(__m256 a) {
  constexpr int kUpper = H == 1 ? 0xAA : H == 2 ? 0xCC : 0xF0;
  __m256 other;
  if constexpr (H == 1) other = _mm256_permute_ps(a, 0xB1);
  if constexpr (H == 2) other = _mm256_permute_ps(a, 0x4E);
  if constexpr (H == 4) other = _mm256_permute2f128_ps(a, a, 1);
  return _mm256_blend_ps(_mm256_add_ps(a, other), _mm256_sub_ps(other, a), kUpper);
}
template <int H>
static inline F butterfly(F x) {
  if constexpr (H == 8) {
    return {_mm256_add_ps(x.a, x.b), _mm256_sub_ps(x.a, x.b)};
  } else {
    return {butterfly<H>(x.a), butterfly<H>(x.b)};
  }
}

static inline __m128i load_words(const uint16_t* x) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(x));
}
static inline F load_half(const uint16_t* x) {
  return {_mm256_cvtph_ps(load_words(x)), _mm256_cvtph_ps(load_words(x + 8))};
}
static inline void store_half(uint16_t* x, F v) {
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  _mm_storeu_si128(reinterpret_cast<__m128i*>(x), _mm256_cvtps_ph(v.a, kNearest));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(x + 8), _mm256_cvtps_ph(v.b, kNearest));
}
static inline __m256 widen8(const uint16_t* x) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_words(x)), 16));
}
static inline F load_bf16(const uint16_t* x) { return {widen8(x), widen8(x + 8)}; }

static inline int32_t quantize_lanes(F a, F b, int8_t* out) {
  const __m256i p = _mm256_packs_epi32(_mm256_cvtps_epi32(a.a), _mm256_cvtps_epi32(a.b));
  const __m256i q = _mm256_packs_epi32(_mm256_cvtps_epi32(b.a), _mm256_cvtps_epi32(b.b));
  const __m256i mixed = _mm256_packs_epi16(p, q);  // packs work within 128-bit halves
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_permutevar8x32_epi32(mixed, order));
  int32_t sum = 0;
  for (int i = 0; i < 32; ++i) sum += out[i];
  return sum;
}
static inline __m256i pack16(F x) {
  const __m256i pairs = _mm256_packs_epi32(_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b));
  return _mm256_permute4x64_epi64(pairs, 0xD8);  // packs work within 128-bit halves
}
static inline void store_u8(uint8_t* out, F a, F b, F c, F d) {
  const __m256i low = _mm256_permute4x64_epi64(_mm256_packus_epi16(pack16(a), pack16(b)), 0xD8);
  const __m256i high = _mm256_permute4x64_epi64(_mm256_packus_epi16(pack16(c), pack16(d)), 0xD8);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), low);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 32), high);
}

static inline F to_float(I x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
static inline __m256i load_bytes(const uint8_t* w) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w));
}
static inline Four four_codes(const void* x) {
  int32_t four;
  __builtin_memcpy(&four, x, 4);
  return {_mm256_set1_epi32(four)};
}
// int8 codes are made signed again, so the +128 needs no compensation here.
static inline I start8(int32_t) { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
static inline W8 load_w8(const uint8_t* w) {
  const __m256i flip = _mm256_set1_epi8(-128);
  const __m256i a = _mm256_xor_si256(load_bytes(w), flip);
  const __m256i b = _mm256_xor_si256(load_bytes(w + 32), flip);
  return {a, b, _mm256_abs_epi8(a), _mm256_abs_epi8(b)};
}
// |w| <= 127 and |x| <= 127, so a pair stays at or below 32258 and vpmaddubsw never saturates.
static inline I dot_w8(I acc, const W8& w, Four x) {
  const __m256i ones = _mm256_set1_epi16(1);
  const __m256i a = _mm256_maddubs_epi16(w.size_a, _mm256_sign_epi8(x.v, w.a));
  const __m256i b = _mm256_maddubs_epi16(w.size_b, _mm256_sign_epi8(x.v, w.b));
  return {_mm256_add_epi32(acc.a, _mm256_madd_epi16(a, ones)),
          _mm256_add_epi32(acc.b, _mm256_madd_epi16(b, ones))};
}
static inline I dot8(I acc, const W8& w, const int8_t* x) { return dot_w8(acc, w, four_codes(x)); }
static inline Acc4 start4(int32_t) { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
static inline void load_w4(const uint8_t* w, W4* low, W4* high) {
  const __m256i mask = _mm256_set1_epi8(15);
  const __m256i a = load_bytes(w), b = load_bytes(w + 32);
  *low = {_mm256_and_si256(a, mask), _mm256_and_si256(b, mask)};
  *high = {_mm256_and_si256(_mm256_srli_epi16(a, 4), mask), _mm256_and_si256(_mm256_srli_epi16(b, 4), mask)};
}
static inline Acc4 dot4(Acc4 acc, W4 w, const int8_t* x) {
  const __m256i four = four_codes(x).v;
  acc.a = _mm256_add_epi16(acc.a, _mm256_maddubs_epi16(w.a, four));
  acc.b = _mm256_add_epi16(acc.b, _mm256_maddubs_epi16(w.b, four));
  // Otherwise GCC makes a tree of the sums and spills its branches.
  __asm__("" : "+x"(acc.a), "+x"(acc.b));
  return acc;
}
static inline I finish4(Acc4 acc, int32_t start) {
  const __m256i ones = _mm256_set1_epi16(1), offset = _mm256_set1_epi32(start);
  return {_mm256_add_epi32(_mm256_madd_epi16(acc.a, ones), offset),
          _mm256_add_epi32(_mm256_madd_epi16(acc.b, ones), offset)};
}
static inline I same_sums(int32_t sum) { return {_mm256_set1_epi32(sum), _mm256_set1_epi32(sum)}; }
static inline I zero_sums() { return start8(0); }
static inline V8 load_v8(const int8_t* v) {
  const __m256i a = load_bytes(reinterpret_cast<const uint8_t*>(v));
  const __m256i b = load_bytes(reinterpret_cast<const uint8_t*>(v) + 32);
  return {_mm256_srai_epi16(_mm256_slli_epi16(a, 8), 8), _mm256_srai_epi16(a, 8),
          _mm256_srai_epi16(_mm256_slli_epi16(b, 8), 8), _mm256_srai_epi16(b, 8)};
}
// In int16: vpmaddubsw would saturate at codes of 255.
static inline I dot_v8(I acc, const V8& v, Four x) {
  const __m256i even = _mm256_and_si256(x.v, _mm256_set1_epi16(255)), odd = _mm256_srli_epi16(x.v, 8);
  const __m256i a = _mm256_add_epi32(_mm256_madd_epi16(v.even_a, even), _mm256_madd_epi16(v.odd_a, odd));
  const __m256i b = _mm256_add_epi32(_mm256_madd_epi16(v.even_b, even), _mm256_madd_epi16(v.odd_b, odd));
  return {_mm256_add_epi32(acc.a, a), _mm256_add_epi32(acc.b, b)};
}

static inline I add_pairs(I sum, __m256i a, __m256i b) {
  const __m256i ones = _mm256_set1_epi16(1);
  return {_mm256_add_epi32(sum.a, _mm256_madd_epi16(a, ones)),
          _mm256_add_epi32(sum.b, _mm256_madd_epi16(b, ones))};
}
// Codes of 8 bits: in int16, since vpmaddubsw would saturate.
template <int R>
static inline void add_bytes(const uint8_t* w, int64_t groups, const CodeLine* x, int64_t stride, I* sums) {
  const __m256i low = _mm256_set1_epi16(255);
  for (int64_t g = 0; g < groups; ++g, x += stride) {
    for (int i = 0; i < kRowColumns / 4; ++i, w += 64) {
      prefetch(w + kAhead);
      const __m256i a = load_bytes(w), b = load_bytes(w + 32);
      const __m256i even_a = _mm256_and_si256(a, low), even_b = _mm256_and_si256(b, low);
      const __m256i odd_a = _mm256_srli_epi16(a, 8), odd_b = _mm256_srli_epi16(b, 8);
      for (int m = 0; m < R; ++m) {
        const __m256i four = four_codes(x[m].code + 4 * i).v;
        const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(four, 8), 8),
                      odd = _mm256_srai_epi16(four, 8);
        const __m256i sum_a =
            _mm256_add_epi32(_mm256_madd_epi16(even_a, even), _mm256_madd_epi16(odd_a, odd));
        const __m256i sum_b =
            _mm256_add_epi32(_mm256_madd_epi16(even_b, even), _mm256_madd_epi16(odd_b, odd));
        sums[m] = {_mm256_add_epi32(sums[m].a, sum_a), _mm256_add_epi32(sums[m].b, sum_b)};
      }
    }
  }
}
// Codes of 2 or 4 bits: their products are summed in int16 as long as that is exact.
template <int Bits, int R>
static inline void add_fields(const uint8_t* w, int64_t groups, const CodeLine* x, int64_t stride, I* sums) {
  constexpr int kEach = 8 / Bits;             // codes of a byte
  constexpr int kWords = Bits == 4 ? 8 : 16;  // of four columns, to be summed in int16
  static_assert(kWords * 2 * ((1 << Bits) - 1) * 128 <= INT16_MAX);
  const __m256i mask = _mm256_set1_epi8((1 << Bits) - 1);
  for (int64_t g = 0; g < groups; ++g, x += stride) {
    for (int first = 0; first < kRowColumns / 4; first += kWords) {
      __m256i a[R], b[R];
      for (int m = 0; m < R; ++m) a[m] = b[m] = _mm256_setzero_si256();
#pragma GCC unroll 4
      for (int i = 0; i < kWords; i += kEach, w += 64) {
        prefetch(w + kAhead);
        const __m256i bytes_a = load_bytes(w), bytes_b = load_bytes(w + 32);
#pragma GCC unroll 4
        for (int p = 0; p < kEach; ++p) {
          const __m256i codes_a = _mm256_and_si256(_mm256_srli_epi16(bytes_a, Bits * p), mask);
          const __m256i codes_b = _mm256_and_si256(_mm256_srli_epi16(bytes_b, Bits * p), mask);
#pragma GCC unroll 4
          for (int m = 0; m < R; ++m) {
            const __m256i four = four_codes(x[m].code + 4 * (first + i + p)).v;
            a[m] = _mm256_add_epi16(a[m], _mm256_maddubs_epi16(codes_a, four));
            b[m] = _mm256_add_epi16(b[m], _mm256_maddubs_epi16(codes_b, four));
            __asm__("" : "+x"(a[m]), "+x"(b[m]));  // as in dot4
          }
        }
      }
      for (int m = 0; m < R; ++m) sums[m] = add_pairs(sums[m], a[m], b[m]);
    }
  }
}
template <int Bits, int R, int T>
static inline void add_codes(const uint8_t* w, int64_t, int64_t groups, const CodeLine* x, int64_t stride,
                             I* sums) {
  static_assert(T == 1);
  if constexpr (Bits == 8) {
    add_bytes<R>(w, groups, x, stride, sums);
  } else {
    add_fields<Bits, R>(w, groups, x, stride, sums);
  }
}

#include "kernels/kernels_impl.h"

}  // namespace geminate::avx2

namespace geminate {
const Kernels* avx2_kernels() { return &avx2::kTable; }
}  // namespace geminate
