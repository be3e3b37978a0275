// Plain C++: every machine, and the yardstick of the others. 16 lanes in a loop.
#include "contract.h"
#include "kernels/cells.h"
#include "kernels/half.h"
#include "kernels/prefetch.h"

namespace geminate::scalar {

constexpr const char* kIsaName = "scalar";
constexpr int kRowBlock = 2, kNibbleRows = 2, kHalfBlock = 2, kHalfVecs = 1, kCodeBlock = 2, kCodeVecs = 1,
              kCodeRows = 2, kPairRows = 0, kValueBias = 0;

struct F {
  float v[16];
};
struct I {
  int32_t v[16];
};
using Acc4 = I;
struct W8 {
  const uint8_t* codes;
};
struct W4 {
  const uint8_t* codes;
  int shift;
};
struct V8 {
  const int8_t* codes;
};
struct Four {
  const void* codes;
};

template <class Body>
static inline F lanes(Body body) {
  F out;
  for (int i = 0; i < 16; ++i) out.v[i] = body(i);
  return out;
}

static inline F load(const float* x) {
  return lanes([&](int i) { return x[i]; });
}
static inline F load_part(const float* x, int n) {
  return lanes([&](int i) { return i < n ? x[i] : 0.0f; });
}
static inline void store_part(float* x, F a, int n) {
  for (int i = 0; i < n; ++i) x[i] = a.v[i];
}
static inline void store(float* x, F a) { store_part(x, a, 16); }
static inline F set1(float x) {
  return lanes([&](int) { return x; });
}
static inline F add(F a, F b) {
  return lanes([&](int i) { return a.v[i] + b.v[i]; });
}
static inline F sub(F a, F b) {
  return lanes([&](int i) { return a.v[i] - b.v[i]; });
}
static inline F mul(F a, F b) {
  return lanes([&](int i) { return a.v[i] * b.v[i]; });
}
static inline F div(F a, F b) {
  return lanes([&](int i) { return a.v[i] / b.v[i]; });
}
static inline F fma(F a, F b, F c) {
  return lanes([&](int i) { return __builtin_fmaf(a.v[i], b.v[i], c.v[i]); });
}
static inline F sqrt(F a) {
  return lanes([&](int i) { return __builtin_sqrtf(a.v[i]); });
}
// The second operand where either is NaN, as the x86 instructions do.
static inline F max(F a, F b) {
  return lanes([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
static inline F min(F a, F b) {
  return lanes([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
static inline F abs(F a) {
  return lanes([&](int i) { return __builtin_fabsf(a.v[i]); });
}
static inline F copy_sign(F size, F sign) {
  return lanes([&](int i) { return __builtin_copysignf(size.v[i], sign.v[i]); });
}
static inline F round_even(F a) {
  return lanes([&](int i) { return __builtin_rintf(a.v[i]); });
}
static inline F select_less(F a, F b, F yes, F no) {
  return lanes([&](int i) { return a.v[i] < b.v[i] ? yes.v[i] : no.v[i]; });
}
static inline F pow2(F n) {
  return lanes([&](int i) {
    // NaN has no integer; what multiplies it stays NaN whatever this returns.
    const int32_t whole = n.v[i] == n.v[i] ? static_cast<int32_t>(n.v[i]) : 0;
    return float_of((static_cast<uint32_t>(whole) + 127u) << 23);
  });
}
static inline F times_pow2(F a, F n) { return mul(a, pow2(n)); }
static inline bool any_less(F a, F b) {
  bool any = false;
  for (int i = 0; i < 16; ++i) any |= a.v[i] < b.v[i];
  return any;
}
// The tree all ISAs share: i with i+8, then i+4, i+2, i+1.
static inline float reduce_add(F a) {
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) a.v[i] = a.v[i] + a.v[i + half];
  }
  return a.v[0];
}
static inline float reduce_max(F a) {
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) a.v[i] = a.v[i] > a.v[i + half] ? a.v[i] : a.v[i + half];
  }
  return a.v[0];
}
template <int H>
static inline F butterfly(F a) {
  return lanes([&](int i) { return (i & H) != 0 ? a.v[i ^ H] - a.v[i] : a.v[i] + a.v[i ^ H]; });
}

static inline F load_half(const uint16_t* x) {
  return lanes([&](int i) { return widen_half(x[i]); });
}
static inline void store_half(uint16_t* x, F a) {
  for (int i = 0; i < 16; ++i) x[i] = round_half(a.v[i]);
}
static inline F load_bf16(const uint16_t* x) {
  return lanes([&](int i) { return widen_bf16(x[i]); });
}

static inline F load_u8(const uint8_t* x) {
  return lanes([&](int i) { return static_cast<float>(x[i]); });
}
static inline F load_s8(const uint8_t* x) {
  return lanes([&](int i) { return static_cast<float>(static_cast<int8_t>(x[i])); });
}

static inline int32_t quantize_lanes(F a, F b, int8_t* out) {
  int32_t sum = 0;
  for (int i = 0; i < 32; ++i) {
    const float x = i < 16 ? a.v[i] : b.v[i - 16];
    const float r = __builtin_rintf(x);
    out[i] = static_cast<int8_t>(r > -128.0f ? (r < 127.0f ? r : 127.0f) : -128.0f);
    sum += out[i];
  }
  return sum;
}
static inline void store_u8(uint8_t* out, const F& a, const F& b, const F& c, const F& d) {
  const F* const all[4] = {&a, &b, &c, &d};
  for (int i = 0; i < 64; ++i) {
    out[i] = static_cast<uint8_t>(static_cast<int>(__builtin_rintf(all[i / 16]->v[i % 16])));
  }
}

static inline F to_float(I a) {
  return lanes([&](int i) { return static_cast<float>(a.v[i]); });
}
static inline I start8(int32_t start) {
  I out;
  for (int i = 0; i < 16; ++i) out.v[i] = start;
  return out;
}
static inline Acc4 start4(int32_t start) { return start8(start); }
static inline W8 load_w8(const uint8_t* w) { return {w}; }
static inline void load_w4(const uint8_t* w, W4* low, W4* high) {
  *low = {w, 0};
  *high = {w, 4};
}
static inline I dot8(I acc, W8 w, const int8_t* x) {
  for (int i = 0; i < 16; ++i) {
    for (int b = 0; b < 4; ++b) acc.v[i] += w.codes[4 * i + b] * x[b];
  }
  return acc;
}
static inline Acc4 dot4(Acc4 acc, W4 w, const int8_t* x) {
  for (int i = 0; i < 16; ++i) {
    for (int b = 0; b < 4; ++b) acc.v[i] += ((w.codes[4 * i + b] >> w.shift) & 15) * x[b];
  }
  return acc;
}
static inline I finish4(Acc4 acc, int32_t) { return acc; }
static inline I same_sums(int32_t sum) { return start8(sum); }
static inline I zero_sums() { return start8(0); }
static inline V8 load_v8(const int8_t* v) { return {v}; }
static inline Four four_codes(const void* x) { return {x}; }
static inline I dot_w8(I acc, W8 w, Four x) { return dot8(acc, w, static_cast<const int8_t*>(x.codes)); }
static inline I dot_v8(I acc, V8 v, Four x) {
  const uint8_t* codes = static_cast<const uint8_t*>(x.codes);
  for (int i = 0; i < 16; ++i) {
    for (int b = 0; b < 4; ++b) acc.v[i] += v.codes[4 * i + b] * codes[b];
  }
  return acc;
}

template <int Bits, int R, int T>
static inline void add_codes(const uint8_t* w, int64_t, int64_t groups, const CodeLine* x, int64_t stride,
                             I* sums) {
  static_assert(T == 1);
  constexpr int kEach = 8 / Bits;  // codes of a byte
  for (int64_t g = 0; g < groups; ++g, x += stride) {
    for (int i = 0; i < 16; i += kEach, w += 64) {
      for (int p = 0; p < kEach; ++p) {
        for (int m = 0; m < R; ++m) {
          const int8_t* four = x[m].code + 4 * (i + p);
          for (int at = 0; at < 64; ++at) {
            sums[m].v[at / 4] += (w[at] >> (Bits * p) & ((1 << Bits) - 1)) * four[at % 4];
          }
        }
      }
    }
  }
}

static inline bool own_products(const Matrix&, const TileRange&, const GroupRange&, const QuantGroup*,
                                int64_t, float*, int64_t, float) {
  return false;
}

#include "isa/portable_cells.h"
#include "kernels/kernels_impl.h"

}  // namespace geminate::scalar

namespace geminate {
const Kernels* scalar_kernels() { return &scalar::kTable; }
}  // namespace geminate
