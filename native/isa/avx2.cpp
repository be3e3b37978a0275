// AVX2 with FMA and F16C: 16 lanes in two registers, vpmaddubsw + vpmaddwd for the integer products.
#include <immintrin.h>

#include "contract.h"
#include "kernels/cells.h"
#include "kernels/half.h"
#include "kernels/prefetch.h"

namespace geminate::avx2 {

constexpr const char* kIsaName = "avx2";
constexpr int kRowBlock = 2, kNibbleRows = 5, kHalfBlock = 6, kHalfVecs = 1, kCodeBlock = 4, kCodeVecs = 1,
              kCodeRows = 4, kPairRows = 0, kValueBias = 0;

#include "isa/lanes256.h"

struct Acc4 {  // int16 pairs: 8 steps of at most 2 * 15 * 127 stay below 32768
  __m256i a, b;
};
struct W8 {
  __m256i a, b, size_a, size_b;  // signed codes and their magnitudes
};
struct W4 {
  __m256i a, b;
};
struct V8 {  // int16 codes: bytes 0 and 2, bytes 1 and 3 of each lane
  __m256i even_a, odd_a, even_b, odd_b;
};

// int8 codes are made signed again, so the +128 needs no compensation here.
static inline I start8(int32_t) { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
static inline W8 load_w8(const uint8_t* w) {
  const __m256i flip = _mm256_set1_epi8(-128);
  const __m256i a = _mm256_xor_si256(load_bytes(w), flip);
  const __m256i b = _mm256_xor_si256(load_bytes(w + 32), flip);
  return {a, b, _mm256_abs_epi8(a), _mm256_abs_epi8(b)};
}
// |w| <= 128 and |x| <= 127, so a pair stays at or below 32512 and vpmaddubsw never saturates.
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

// Codes of the words in int16, where all their products fit, then in int32.
template <Cells C, int R, int Word>
static inline void add_word(const uint8_t* cell, const QuantGroup* x, __m256i* a, __m256i* b) {
  const __m256i codes_a = cell_word<C, Word>(cell, 0), codes_b = cell_word<C, Word>(cell, 1);
#pragma GCC unroll 4
  for (int m = 0; m < R; ++m) {
    const __m256i four = four_codes(x[m].code + 4 * Word).v;
    a[m] = _mm256_add_epi16(a[m], _mm256_maddubs_epi16(codes_a, four));
    b[m] = _mm256_add_epi16(b[m], _mm256_maddubs_epi16(codes_b, four));
    __asm__("" : "+x"(a[m]), "+x"(b[m]));  // as in dot4
  }
}
template <Cells C, int R, int... Words>
static inline void add_words(const uint8_t* cell, const QuantGroup* x, I* sums) {
  constexpr int kMost = C == Cells::four ? 15 : C == Cells::five ? 31 : 63;
  static_assert(static_cast<int>(sizeof...(Words)) * 2 * kMost * 127 <= INT16_MAX);
  __m256i a[R], b[R];
  for (int m = 0; m < R; ++m) a[m] = b[m] = _mm256_setzero_si256();
  (add_word<C, R, Words>(cell, x, a, b), ...);
  for (int m = 0; m < R; ++m) sums[m] = add_pairs(sums[m], a[m], b[m]);
}
template <int R, int... Words>
static inline void add_looked_up(const uint8_t* cell, const QuantGroup* x, I* sums) {
  const auto add = [&](__m256i a, __m256i b, int word) {
    const __m256i codes_a = looked_up(a, 0), codes_b = looked_up(b, 0);
    const W8 codes{codes_a, codes_b, _mm256_abs_epi8(codes_a), _mm256_abs_epi8(codes_b)};
    for (int m = 0; m < R; ++m) sums[m] = dot8(sums[m], codes, x[m].code + 4 * word);
  };
  (add(cell_word<Cells::looked_up, Words>(cell, 0), cell_word<Cells::looked_up, Words>(cell, 1), Words), ...);
}
template <Cells C, int R>
static inline void add_cell(const uint8_t* cell, const QuantGroup* x, I* sums) {
  prefetch_cell<C>(cell);
  if constexpr (C == Cells::four) {
    add_words<C, R, 0, 4, 1, 5, 2, 6, 3, 7>(cell, x, sums);
  } else if constexpr (C == Cells::five) {
    add_words<C, R, 0, 4, 1, 5>(cell, x, sums);
    add_words<C, R, 2, 6, 3, 7>(cell, x, sums);
  } else if constexpr (C == Cells::six) {
    add_words<C, R, 0, 1>(cell, x, sums);
    add_words<C, R, 2, 3>(cell, x, sums);
    add_words<C, R, 4, 5>(cell, x, sums + R);
    add_words<C, R, 6, 7>(cell, x, sums + R);
  } else {
    add_looked_up<R, 0, 4, 1, 5, 2, 6, 3, 7>(cell, x, sums);
  }
}

#include "kernels/kernels_impl.h"

}  // namespace geminate::avx2

namespace geminate {
const Kernels* avx2_kernels() { return &avx2::kTable; }
}  // namespace geminate
