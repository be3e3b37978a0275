// AVX-VNNI with FMA and F16C: as AVX2, with vpdpbusd in its VEX form for the integer products.
#include <immintrin.h>

#include "contract.h"
#include "kernels/cells.h"
#include "kernels/half.h"
#include "kernels/prefetch.h"

namespace geminate::avxvnni {

constexpr const char* kIsaName = "avxvnni";
// Sixteen registers: two of sums for a row, two of codes, one with four activations, one mask.
constexpr int kRowBlock = 5, kNibbleRows = 5, kHalfBlock = 6, kHalfVecs = 1, kCodeBlock = 6, kCodeVecs = 1,
              kCodeRows = 4, kPairRows = 0, kValueBias = 0;

#include "isa/lanes256.h"

using Acc4 = I;
struct W8 {
  __m256i a, b;
};
using W4 = W8;
using V8 = W8;

// u unsigned, s signed. In assembly, so that every compiler takes the encoding that processors without
// AVX-512 know.
static inline __m256i dot(__m256i sum, __m256i u, __m256i s) {
  __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(u), "x"(s));
  return sum;
}
static inline I dot_pair(I acc, W8 u, __m256i s) { return {dot(acc.a, u.a, s), dot(acc.b, u.b, s)}; }

static inline I start8(int32_t start) { return same_sums(start); }
static inline W8 load_w8(const uint8_t* w) { return {load_bytes(w), load_bytes(w + 32)}; }
static inline I dot_w8(I acc, W8 w, Four x) { return dot_pair(acc, w, x.v); }
static inline I dot8(I acc, W8 w, const int8_t* x) { return dot_w8(acc, w, four_codes(x)); }
static inline Acc4 start4(int32_t start) { return same_sums(start); }
static inline void load_w4(const uint8_t* w, W4* low, W4* high) {
  const __m256i mask = _mm256_set1_epi8(15);
  const __m256i a = load_bytes(w), b = load_bytes(w + 32);
  *low = {_mm256_and_si256(a, mask), _mm256_and_si256(b, mask)};
  *high = {_mm256_and_si256(_mm256_srli_epi16(a, 4), mask), _mm256_and_si256(_mm256_srli_epi16(b, 4), mask)};
}
static inline Acc4 dot4(Acc4 acc, W4 w, const int8_t* x) { return dot8(acc, w, x); }
static inline I finish4(Acc4 acc, int32_t) { return acc; }
static inline V8 load_v8(const int8_t* v) { return load_w8(reinterpret_cast<const uint8_t*>(v)); }
static inline I dot_v8(I acc, V8 v, Four x) { return {dot(acc.a, x.v, v.a), dot(acc.b, x.v, v.b)}; }

template <int Bits, int R, int T>
static inline void add_codes(const uint8_t* w, int64_t, int64_t groups, const CodeLine* x, int64_t stride,
                             I* sums) {
  static_assert(T == 1);
  constexpr int kEach = 8 / Bits;  // codes of a byte
  const __m256i mask = _mm256_set1_epi8(static_cast<char>((1 << Bits) - 1));
  for (int64_t g = 0; g < groups; ++g, x += stride) {
#pragma GCC unroll 4
    for (int i = 0; i < kRowColumns / 4; i += kEach, w += 64) {
      prefetch(w + kAhead);
      const __m256i a = load_bytes(w), b = load_bytes(w + 32);
#pragma GCC unroll 4
      for (int p = 0; p < kEach; ++p) {
        W8 codes = {a, b};
        if constexpr (Bits < 8) {
          codes = {_mm256_and_si256(_mm256_srli_epi16(a, Bits * p), mask),
                   _mm256_and_si256(_mm256_srli_epi16(b, Bits * p), mask)};
        }
#pragma GCC unroll 8
        for (int m = 0; m < R; ++m) sums[m] = dot_pair(sums[m], codes, four_codes(x[m].code + 4 * (i + p)).v);
      }
    }
  }
}

template <Cells C, int R, int Word>
static inline void add_word(const uint8_t* cell, const QuantGroup* x, I* sums) {
  W8 codes{cell_word<C, Word>(cell, 0), cell_word<C, Word>(cell, 1)};
  if constexpr (C == Cells::looked_up) codes = {looked_up(codes.a, -128), looked_up(codes.b, -128)};
#pragma GCC unroll 8
  for (int m = 0; m < R; ++m) sums[m] = dot_pair(sums[m], codes, four_codes(x[m].code + 4 * Word).v);
}
template <Cells C, int R, int... Words>
static inline void add_words(const uint8_t* cell, const QuantGroup* x, I* sums) {
  (add_word<C, R, Words>(cell, x, sums), ...);
}
template <Cells C, int R>
static inline void add_cell(const uint8_t* cell, const QuantGroup* x, I* sums) {
  prefetch_cell<C>(cell);
  if constexpr (C == Cells::looked_up) {  // as unsigned bytes, 128 added
    for (int m = 0; m < R; ++m) {
      const __m256i start = _mm256_set1_epi32(x[m].start8);
      sums[m] = {_mm256_add_epi32(sums[m].a, start), _mm256_add_epi32(sums[m].b, start)};
    }
  }
  if constexpr (C == Cells::six) {
    add_words<C, R, 0, 1, 2, 3>(cell, x, sums);
    add_words<C, R, 4, 5, 6, 7>(cell, x, sums + R);
  } else {
    add_words<C, R, 0, 4, 1, 5, 2, 6, 3, 7>(cell, x, sums);
  }
}

#include "kernels/kernels_impl.h"

}  // namespace geminate::avxvnni

namespace geminate {
const Kernels* avxvnni_kernels() { return &avxvnni::kTable; }
}  // namespace geminate
