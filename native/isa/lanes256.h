// 16 lanes of float or int32 in two 256-bit registers: what AVX2 and AVX-VNNI share. Included inside the
// namespace of each.

struct F {
  __m256 a, b;
};
struct I {
  __m256i a, b;
};
struct Four {
  __m256i v;
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

static inline __m128i load_eight(const uint8_t* x) {
  return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(x));
}
static inline F load_u8(const uint8_t* x) {
  return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(load_eight(x))),
          _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(load_eight(x + 8)))};
}
static inline F load_s8(const uint8_t* x) {
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(load_eight(x))),
          _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(load_eight(x + 8)))};
}

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
static inline I same_sums(int32_t sum) { return {_mm256_set1_epi32(sum), _mm256_set1_epi32(sum)}; }
static inline I zero_sums() { return same_sums(0); }

// Words c and 4 + c of a cell, without what kLookedUp says; word 0 .. 3 of the fifth and sixth bits apart.
template <Cells C, int Word>
static inline __m256i cell_word(const uint8_t* cell, int half) {
  constexpr int kHigh = high_vectors(C);
  const __m256i pairs = load_bytes(cell + 64 * (kHigh + Word % 4) + 32 * half);
  const __m256i mask = _mm256_set1_epi8(15);
  const __m256i low = _mm256_and_si256(Word < 4 ? pairs : _mm256_srli_epi16(pairs, 4), mask);
  if constexpr (C == Cells::five) {
    const __m256i bits = load_bytes(cell + 32 * half);
    const __m256i moved =
        Word < 4 ? _mm256_slli_epi16(bits, 4 - Word % 4) : _mm256_srli_epi16(bits, Word % 4);
    return _mm256_or_si256(low, _mm256_and_si256(moved, _mm256_set1_epi8(16)));
  }
  if constexpr (C == Cells::six) {
    const __m256i bits = load_bytes(cell + 64 * (Word / 4) + 32 * half);
    constexpr int kAt = 2 * (Word % 4);
    const __m256i moved = kAt < 4 ? _mm256_slli_epi16(bits, 4 - kAt) : _mm256_srli_epi16(bits, kAt - 4);
    return _mm256_or_si256(low, _mm256_and_si256(moved, _mm256_set1_epi8(48)));
  }
  return low;
}
static inline __m256i looked_up(__m256i codes, char added) {
  const __m128i table = _mm_loadu_si128(reinterpret_cast<const __m128i*>(kLookedUp));
  const __m256i both = _mm256_add_epi8(_mm256_broadcastsi128_si256(table), _mm256_set1_epi8(added));
  return _mm256_shuffle_epi8(both, codes);
}
template <Cells C>
static inline void prefetch_cell(const uint8_t* cell) {
  for (int i = 0; i < 4 + high_vectors(C); ++i) prefetch(cell + kAhead + 64 * i);
}

static inline bool own_products(const Matrix&, const TileRange&, const GroupRange&, const QuantGroup*,
                                int64_t, float*, int64_t, float) {
  return false;
}
