// The Hadamard transform of a head, before it is quantized. Included by kernels_impl.h.

// The largest power of two that divides a head's width: the transform works in blocks of it.
static inline int64_t hadamard_block(int64_t n) { return n & -n; }

// x = H x in place, H the unnormalized Hadamard matrix in each block of x [n]: H H = block * identity. Stages
// of distance 1, 2, 4, ... in this order.
static void hadamard(float* x, int64_t n) {
  const int64_t block = hadamard_block(n);
  each16(n, [&](int64_t i, int lanes) {
    F v = load(x + i, lanes);
    if (block > 1) v = butterfly<1>(v);
    if (block > 2) v = butterfly<2>(v);
    if (block > 4) v = butterfly<4>(v);
    if (block > 8) v = butterfly<8>(v);
    store(x + i, v, lanes);
  });
  for (int64_t half = 16; half < block; half *= 2) {
    for (int64_t i = 0; i < n; i += 2 * half) {
      for (int64_t j = i; j < i + half; j += 16) {
        const F a = load(x + j), b = load(x + j + half);
        store(x + j, add(a, b));
        store(x + j + half, sub(a, b));
      }
    }
  }
}

static inline void copy_head(const float* from, float* to, int64_t n) {
  each16(n, [&](int64_t i, int lanes) { store(to + i, load(from + i, lanes), lanes); });
}

// Codes of x [n] with one scale, which it returns: amax / 127, rounded to nearest even. codes [n up to a
// multiple of 64], zeros behind x; sum: of the codes.
static inline float quantize_head(const float* x, int64_t n, int8_t* codes, int32_t* sum) {
  F most = set1(0.0f);
  each16(n, [&](int64_t i, int lanes) { most = max(most, abs(load(x + i, lanes))); });
  const float amax = reduce_max(most);
  // Below 1e-30 the inverse would overflow; such a head is zero for every purpose.
  const F inverse = set1(amax < 1e-30f ? 0.0f : 127.0f / amax);
  const auto part = [&](int64_t i) {
    if (i >= n) return set1(0.0f);
    return mul(load(x + i, n - i < 16 ? static_cast<int>(n - i) : 16), inverse);
  };
  static const uint8_t ones[4] = {1, 1, 1, 1};
  const int32_t steps = static_cast<int32_t>((n + 63) / 64);
  I sums = kValueBias == 0 ? zero_sums() : same_sums(-kValueBias * 4 * steps);
  for (int64_t i = 0; i < n; i += 64) {
    quantize_lanes(part(i), part(i + 16), codes + i);
    quantize_lanes(part(i + 32), part(i + 48), codes + i + 32);
    sums = dot_v8(sums, load_v8(codes + i), four_codes(ones));
  }
  *sum = static_cast<int32_t>(reduce_add(to_float(sums)));  // small enough to be exact
  return amax < 1e-30f ? 0.0f : amax / 127.0f;
}
