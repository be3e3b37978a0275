// AVX-512 F/BW/VL/DQ with VNNI: 16 lanes in one register, vpdpbusd for the integer products.
#include <immintrin.h>

#include "contract.h"
#include "kernels/cells.h"
#include "kernels/half.h"
#include "kernels/prefetch.h"

namespace geminate::avx512 {

constexpr const char* kIsaName = "avx512";
constexpr int kRowBlock = 8, kNibbleRows = 8, kHalfBlock = 12, kHalfVecs = 2, kCodeBlock = 8, kCodeVecs = 2,
              kCodeRows = 16, kPairRows = 8, kValueBias = 0;

struct F {
  __m512 v;
};
struct I {
  __m512i v;
};
using Acc4 = I;
struct W8 {
  __m512i codes;
};
using W4 = W8;
using V8 = W8;
struct Four {
  __m512i v;
};

static inline __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1u); }

static inline F load(const float* x) { return {_mm512_loadu_ps(x)}; }
static inline F load_part(const float* x, int n) { return {_mm512_maskz_loadu_ps(first(n), x)}; }
static inline void store(float* x, F a) { _mm512_storeu_ps(x, a.v); }
static inline void store_part(float* x, F a, int n) { _mm512_mask_storeu_ps(x, first(n), a.v); }
static inline F set1(float x) { return {_mm512_set1_ps(x)}; }
static inline F add(F a, F b) { return {_mm512_add_ps(a.v, b.v)}; }
static inline F sub(F a, F b) { return {_mm512_sub_ps(a.v, b.v)}; }
static inline F mul(F a, F b) { return {_mm512_mul_ps(a.v, b.v)}; }
static inline F div(F a, F b) { return {_mm512_div_ps(a.v, b.v)}; }
static inline F fma(F a, F b, F c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
static inline F sqrt(F a) { return {_mm512_sqrt_ps(a.v)}; }
static inline F max(F a, F b) { return {_mm512_max_ps(a.v, b.v)}; }
static inline F min(F a, F b) { return {_mm512_min_ps(a.v, b.v)}; }
static inline F abs(F a) { return {_mm512_abs_ps(a.v)}; }
static inline F copy_sign(F size, F sign) {
  const __m512 mask = _mm512_set1_ps(-0.0f);
  return {_mm512_or_ps(_mm512_andnot_ps(mask, size.v), _mm512_and_ps(mask, sign.v))};
}
static inline F round_even(F a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
static inline F select_less(F a, F b, F yes, F no) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), no.v, yes.v)};
}
static inline F pow2(F n) {
  const __m512i biased = _mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(biased, 23))};
}
static inline F times_pow2(F a, F n) { return {_mm512_scalef_ps(a.v, n.v)}; }
static inline bool any_less(F a, F b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ) != 0; }

// The tree all ISAs share: i with i+8, then i+4, i+2, i+1.
static inline float reduce_add(F a) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
static inline float reduce_max(F a) {
  const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
template <int H>
static inline F butterfly(F a) {
  constexpr __mmask16 kUpper = H == 1 ? 0xAAAA : H == 2 ? 0xCCCC : H == 4 ? 0xF0F0 : 0xFF00;
  __m512 other;
  if constexpr (H == 1) other = _mm512_permute_ps(a.v, 0xB1);
  if constexpr (H == 2) other = _mm512_permute_ps(a.v, 0x4E);
  if constexpr (H == 4) other = _mm512_shuffle_f32x4(a.v, a.v, 0xB1);
  if constexpr (H == 8) other = _mm512_shuffle_f32x4(a.v, a.v, 0x4E);
  return {_mm512_mask_sub_ps(_mm512_add_ps(a.v, other), kUpper, other, a.v)};
}

static inline __m256i load_words(const uint16_t* x) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
}
static inline F load_half(const uint16_t* x) { return {_mm512_cvtph_ps(load_words(x))}; }
static inline void store_half(uint16_t* x, F a) {
  const __m256i half = _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(x), half);
}
static inline F load_bf16(const uint16_t* x) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load_words(x)), 16))};
}

static inline __m128i load_sixteen(const uint8_t* x) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(x));
}
static inline F load_u8(const uint8_t* x) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(load_sixteen(x)))};
}
static inline F load_s8(const uint8_t* x) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_sixteen(x)))};
}

static inline int32_t quantize_lanes(F a, F b, int8_t* out) {
  const __m512i low = _mm512_cvtps_epi32(a.v), high = _mm512_cvtps_epi32(b.v);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm512_cvtsepi32_epi8(low));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 16), _mm512_cvtsepi32_epi8(high));
  return _mm512_reduce_add_epi32(_mm512_add_epi32(low, high));
}
static inline void store_u8(uint8_t* out, F a, F b, F c, F d) {
  const __m512i low = _mm512_packs_epi32(_mm512_cvtps_epi32(a.v), _mm512_cvtps_epi32(b.v));
  const __m512i high = _mm512_packs_epi32(_mm512_cvtps_epi32(c.v), _mm512_cvtps_epi32(d.v));
  const __m512i mixed = _mm512_packus_epi16(low, high);  // packs work within 128-bit lanes
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  _mm512_storeu_si512(out, _mm512_permutexvar_epi32(order, mixed));
}

static inline F to_float(I a) { return {_mm512_cvtepi32_ps(a.v)}; }
static inline I start8(int32_t start) { return {_mm512_set1_epi32(start)}; }
static inline Acc4 start4(int32_t start) { return {_mm512_set1_epi32(start)}; }
static inline W8 load_w8(const uint8_t* w) { return {_mm512_loadu_si512(w)}; }
static inline void load_w4(const uint8_t* w, W4* low, W4* high) {
  const __m512i pairs = _mm512_loadu_si512(w), mask = _mm512_set1_epi8(15);
  low->codes = _mm512_and_si512(pairs, mask);
  high->codes = _mm512_and_si512(_mm512_srli_epi16(pairs, 4), mask);
}
static inline I dot8(I acc, W8 w, const int8_t* x) {
  int32_t four;
  __builtin_memcpy(&four, x, 4);
  return {_mm512_dpbusd_epi32(acc.v, w.codes, _mm512_set1_epi32(four))};
}
static inline Acc4 dot4(Acc4 acc, W4 w, const int8_t* x) { return dot8(acc, w, x); }
static inline I finish4(Acc4 acc, int32_t) { return acc; }
static inline I same_sums(int32_t sum) { return {_mm512_set1_epi32(sum)}; }
static inline I zero_sums() { return {_mm512_setzero_si512()}; }
static inline V8 load_v8(const int8_t* v) { return {_mm512_loadu_si512(v)}; }
static inline Four four_codes(const void* x) {
  int32_t four;
  __builtin_memcpy(&four, x, 4);
  return {_mm512_set1_epi32(four)};
}
// In assembly: around the intrinsic, GCC 12 copies and spills a block of 24 sums in every step.
static inline I dot_codes(I acc, __m512i u, __m512i s) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(acc.v) : "v"(u), "v"(s));
  return acc;
}
static inline I dot_w8(I acc, W8 w, Four x) { return dot_codes(acc, w.codes, x.v); }
static inline I dot_v8(I acc, V8 v, Four x) { return dot_codes(acc, x.v, v.codes); }

// Codes times the four activations at x. In assembly: one instruction, its operand from memory.
static inline __m512i dot_at(__m512i sum, __m512i codes, const int8_t* x) {
  __asm__("vpdpbusd %2%{1to16%}, %1, %0"
          : "+v"(sum)
          : "v"(codes), "m"(*reinterpret_cast<const int8_t (*)[4]>(x)));
  return sum;
}
// T tiles share each load of activations: with one, loads limit the products.
template <int Bits, int R, int T>
static inline void add_codes(const uint8_t* w, int64_t tile_bytes, int64_t groups, const CodeLine* x,
                             int64_t stride, I* sums) {
  constexpr int kEach = 8 / Bits;  // codes of a byte
  // Products take some five cycles and two may start in each, so ten sums or more should be under way.
  constexpr int kChains = R * T <= 4 ? 4 : R * T <= 8 ? 2 : 1;
  const __m512i mask = _mm512_set1_epi8(static_cast<char>((1 << Bits) - 1));
  __m512i sum[R * T][kChains];
#pragma GCC unroll 16
  for (int m = 0; m < R * T; ++m) {
    sum[m][0] = sums[m].v;
#pragma GCC unroll 4
    for (int c = 1; c < kChains; ++c) sum[m][c] = _mm512_setzero_si512();
  }
  constexpr int64_t kCell = 16 * kRowColumns / kEach;
  for (int64_t g = 0; g < groups; ++g, w += kCell, x += stride) {
    // Behind a tile's end comes the next tile but T - 1.
    const int64_t ahead =
        g * kCell + kAhead / T < tile_bytes ? kAhead / T : kAhead / T + (T - 1) * tile_bytes;
#pragma GCC unroll 16
    for (int i = 0; i < 16 / kEach; ++i) {
      __m512i bytes[T];
#pragma GCC unroll 2
      for (int t = 0; t < T; ++t) {
        prefetch(w + t * tile_bytes + ahead + 64 * i);
        bytes[t] = _mm512_loadu_si512(w + t * tile_bytes + 64 * i);
      }
#pragma GCC unroll 4
      for (int p = 0; p < kEach; ++p) {
        __m512i codes[T];
#pragma GCC unroll 2
        for (int t = 0; t < T; ++t) {
          const __m512i field =
              p == 0 ? bytes[t] : _mm512_srli_epi16(bytes[t], static_cast<unsigned>(Bits * p));
          codes[t] = Bits == 8 ? field : _mm512_and_si512(field, mask);
        }
        const int word = kEach * i + p;
#pragma GCC unroll 16
        for (int m = 0; m < R; ++m) {
          if constexpr (T == 1) {
            __m512i& to = sum[m][word % kChains];
            to = dot_at(to, codes[0], x[m].code + 4 * word);
          } else {
            const Four four = four_codes(x[m].code + 4 * word);
#pragma GCC unroll 2
            for (int t = 0; t < T; ++t) {
              I to{sum[t * R + m][word % kChains]};
              sum[t * R + m][word % kChains] = dot_codes(to, codes[t], four.v).v;
            }
          }
        }
      }
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < R * T; ++m) {
#pragma GCC unroll 4
    for (int c = 1; c < kChains; ++c) sum[m][0] = _mm512_add_epi32(sum[m][0], sum[m][c]);
    sums[m].v = sum[m][0];
  }
}

template <Cells C, int Word>
static inline __m512i cell_word(__m512i pairs, __m512i bits) {
  const __m512i low = _mm512_and_si512(Word < 4 ? pairs : _mm512_srli_epi16(pairs, 4), _mm512_set1_epi8(15));
  if constexpr (C == Cells::looked_up) {
    const __m128i table = _mm_loadu_si128(reinterpret_cast<const __m128i*>(kLookedUp));
    const __m512i all = _mm512_xor_si512(_mm512_broadcast_i32x4(table), _mm512_set1_epi8(-128));
    return _mm512_shuffle_epi8(all, low);
  }
  if constexpr (C == Cells::five || C == Cells::six) {
    // Where the word's bits stand, and where they belong: above the nibble.
    constexpr int kAt = C == Cells::five ? Word : 2 * (Word % 4);
    const __m512i moved = kAt < 4   ? _mm512_slli_epi16(bits, kAt < 4 ? 4 - kAt : 0)
                          : kAt > 4 ? _mm512_srli_epi16(bits, kAt > 4 ? kAt - 4 : 0)
                                    : bits;
    const __m512i mask = _mm512_set1_epi8(C == Cells::five ? 16 : 48);
    return _mm512_ternarylogic_epi32(low, moved, mask, 0xF8);  // low | (moved & mask)
  }
  return low;
}
template <Cells C, int R, int Word>
static inline void add_words(const uint8_t* cell, const __m512i* bits, const QuantGroup* x, I* sums) {
  const uint8_t* nibbles = cell + 64 * (high_vectors(C) + Word);
  prefetch(nibbles + kAhead);
  const __m512i pairs = _mm512_loadu_si512(nibbles);
  const __m512i low = cell_word<C, Word>(pairs, bits[0]);
  const __m512i high = cell_word<C, 4 + Word>(pairs, bits[C == Cells::six ? 1 : 0]);
  I* const others = C == Cells::six ? sums + R : sums;
#pragma GCC unroll 8
  for (int m = 0; m < R; ++m) {
    sums[m].v = dot_at(sums[m].v, low, x[m].code + 4 * Word);
    others[m].v = dot_at(others[m].v, high, x[m].code + 16 + 4 * Word);
  }
}
template <Cells C, int R>
static inline void add_cell(const uint8_t* cell, const QuantGroup* x, I* sums) {
  if constexpr (C == Cells::looked_up) {  // as unsigned bytes, 128 added
    for (int m = 0; m < R; ++m) sums[m].v = _mm512_add_epi32(sums[m].v, _mm512_set1_epi32(x[m].start8));
  }
  __m512i bits[2] = {};
  for (int i = 0; i < high_vectors(C); ++i) {
    prefetch(cell + kAhead + 64 * i);
    bits[i] = _mm512_loadu_si512(cell + 64 * i);
  }
  add_words<C, R, 0>(cell, bits, x, sums);
  add_words<C, R, 1>(cell, bits, x, sums);
  add_words<C, R, 2>(cell, bits, x, sums);
  add_words<C, R, 3>(cell, bits, x, sums);
}

static inline bool own_products(const Matrix&, const TileRange&, const GroupRange&, const QuantGroup*,
                                int64_t, float*, int64_t, float) {
  return false;
}

#include "kernels/kernels_impl.h"

}  // namespace geminate::avx512

namespace geminate {
const Kernels* avx512_kernels() { return &avx512::kTable; }
}  // namespace geminate
