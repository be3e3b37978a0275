// What an instruction set defines in its own namespace, one line each; checked when it is compiled.
// kernels/kernels_impl.h includes this inside that namespace, after the definitions.
#pragma once

template <class A, class B>
concept Is = __is_same(A, B);

static_assert(requires {
  { kIsaName } -> Is<const char* const&>;  // what GEMINATE_ISA and supported_isas() call it
  { kRowBlock } -> Is<const int&>;         // activation rows that share one walk over a weight tile: 1 to 8
  { kNibbleRows } -> Is<const int&>;       // the same of int4
  { kHalfBlock } -> Is<const int&>;        // queries that share keys or values in registers, float16: 1 to 12
  { kHalfVecs } -> Is<const int&>;         // vectors of keys or values beside them: 1 or 2
  { kCodeBlock } -> Is<const int&>;        // likewise for int8 keys and values: 1 to 8
  { kCodeVecs } -> Is<const int&>;         // 1 to 4
  { kCodeRows } -> Is<const int&>;         // rows of codes that share one walk over a tile of a row format
  { kPairRows } -> Is<const int&>;         // up to so many rows of 2-bit codes walk over two tiles at a time
  { kValueBias } -> Is<const int&>;        // what load_v8 adds to its codes: 0 or 128
  requires sizeof(F) >= 16 * sizeof(float);  // 16 float lanes
  requires sizeof(I) >= 64;                  // 16 int32 lanes
  requires sizeof(Acc4) > 0;                 // sums of the int4 products of one group
  requires sizeof(W8) > 0;                   // 64 int8 codes, 4 for each lane, as dot8 wants them
  requires sizeof(W4) > 0;                   // 64 int4 codes, likewise for dot4
  requires sizeof(V8) > 0;                   // 64 signed codes, likewise for dot_v8
  requires sizeof(Four) > 0;                 // four codes for every lane
});

static_assert(requires(F a, F b, F c, const F d, float s, const float* from, float* to, int n) {
  { load(from) } -> Is<F>;               // 16 floats
  { load_part(from, n) } -> Is<F>;       // n < 16 floats, zeros behind; reads no others
  { store(to, a) } -> Is<void>;          // 16 floats
  { store_part(to, a, n) } -> Is<void>;  // the first n < 16; writes no others
  { set1(s) } -> Is<F>;                  // s in every lane
  { add(a, b) } -> Is<F>;                // a + b
  { sub(a, b) } -> Is<F>;                // a - b
  { mul(a, b) } -> Is<F>;                // a * b
  { div(a, b) } -> Is<F>;                // a / b, rounded as IEEE says, no estimate
  { fma(a, b, c) } -> Is<F>;             // a * b + c, rounded once
  { sqrt(a) } -> Is<F>;                  // rounded as IEEE says
  { max(a, b) } -> Is<F>;                // the larger; b where either is NaN
  { min(a, b) } -> Is<F>;                // the smaller; b where either is NaN
  { abs(a) } -> Is<F>;                   // sign cleared
  { copy_sign(a, b) } -> Is<F>;          // size of a, sign of b
  { round_even(a) } -> Is<F>;            // to the nearest integer, ties to even
  { select_less(a, b, c, d) } -> Is<F>;  // c where a < b, else d (so where either is NaN)
  { pow2(a) } -> Is<F>;                  // 2 to the power of a, an integer from -126 to 127
  { times_pow2(a, b) } -> Is<F>;         // a * pow2(b) where that is a normal number
  { any_less(a, b) } -> Is<bool>;        // a < b in some lane
  { reduce_add(a) } -> Is<float>;        // all lanes: i with i + 8, then i + 4, i + 2, i + 1
  { reduce_max(a) } -> Is<float>;        // the largest lane, by the same tree
  // Lane i of H = 1, 2, 4 or 8: a[i] + a[i ^ H], or a[i ^ H] - a[i] where i has the bit H.
  { butterfly<1>(a) } -> Is<F>;
});

static_assert(requires(F a, F b, const uint16_t* from, uint16_t* to, int8_t* codes, uint8_t* bytes) {
  { load_half(from) } -> Is<F>;       // 16 float16
  { store_half(to, a) } -> Is<void>;  // 16 float16, rounded to nearest even
  { load_bf16(from) } -> Is<F>;       // 16 bfloat16
  { load_u8(bytes) } -> Is<F>;        // 16 bytes as numbers from 0 to 255
  { load_s8(bytes) } -> Is<F>;        // 16 bytes as numbers from -128 to 127
  // 32 values, rounded to nearest even, as int8 into codes; returns their sum.
  { quantize_lanes(a, b, codes) } -> Is<int32_t>;
  { store_u8(bytes, a, a, b, b) } -> Is<void>;  // 64 values from 0 to 255, rounded to nearest even
});

static_assert(requires(I sum, Acc4 sum4, W8 w8, W4 w4, V8 v8, Four four, int32_t s, const uint8_t* from,
                       const int8_t* x) {
  { to_float(sum) } -> Is<F>;     // int32 to float, rounded to nearest even
  { start8(s) } -> Is<I>;         // where int8 sums begin: s = -128 * sum(x), or 0 if load_w8 takes 128 off
  { load_w8(from) } -> Is<W8>;    // 64 codes, stored with 128 added
  { dot8(sum, w8, x) } -> Is<I>;  // lane i: sum + codes 4i .. 4i+3 times x[0 .. 3], exact
  { start4(s) } -> Is<Acc4>;      // where int4 sums begin: s = -8 * sum(x), or 0 if finish4 adds it
  { load_w4(from, &w4, &w4) } -> Is<void>;  // 64 bytes: low and high nibbles, stored with 8 added
  { dot4(sum4, w4, x) } -> Is<Acc4>;        // as dot8
  { finish4(sum4, s) } -> Is<I>;            // the group's int32 sums; s as given to start4
  { same_sums(s) } -> Is<I>;                // s in every lane
  { zero_sums() } -> Is<I>;                 // where sums of dot_v8 begin if kValueBias is 0
  { load_v8(x) } -> Is<V8>;                 // 64 signed codes
  { four_codes(from) } -> Is<Four>;         // codes from[0 .. 3], signed or not
  { dot_w8(sum, w8, four) } -> Is<I>;       // as dot8, the four signed
  { dot_v8(sum, v8, four) } -> Is<I>;       // as dot8, the four unsigned
});

static_assert(requires(I* sums, const uint8_t* tile, const CodeLine* lines, int64_t n) {
  // T tiles of a row format, `n` bytes apart, with `n` groups times R rows of codes: line g of row m is
  // lines[g * n + m]. Adds to sums[t * R + m], exactly; codes are unsigned as they are stored. <Bits, R, T>
  { add_codes<2, 1, 1>(tile, n, n, lines, n, sums) } -> Is<void>;
});

static_assert(requires(const uint8_t* cell, const QuantGroup* x, I* sums) {
  // A cell of a block format times R rows of codes. Adds to sums[m], exactly; of six bits the first 16
  // columns to sums[m], the others to sums[R + m]. Codes as they are stored, or what they are looked
  // up as. <Cells, R>
  { add_cell<Cells::four, 1>(cell, x, sums) } -> Is<void>;
});

static_assert(requires(const Matrix& w, const TileRange& range, const GroupRange& groups,
                       const QuantGroup* panel, int64_t n, float* out, float scale) {
  // Kernels::linear_quantized for formats that the set has loops of its own for; otherwise false, nothing
  // done.
  { own_products(w, range, groups, panel, n, out, n, scale) } -> Is<bool>;
});
