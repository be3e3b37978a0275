// exp, tanh and loops over rows with padded tails. Included by kernels_impl.h.

// exp(x) = two_n * (1 + p) with |r| <= ln 2 / 2; p = exp(r) - 1 as a Taylor polynomial of degree 7.
static inline void exp_parts(F x, F* two_n, F* p) {
  const F n = round_even(mul(x, set1(1.44269504088896341f)));
  F r = fma(n, set1(-0.693145751953125f), x);  // ln 2 in two parts, the first with spare low bits
  r = fma(n, set1(-1.42860682030941723e-6f), r);
  F q = set1(1.0f / 5040.0f);
  q = fma(q, r, set1(1.0f / 720.0f));
  q = fma(q, r, set1(1.0f / 120.0f));
  q = fma(q, r, set1(1.0f / 24.0f));
  q = fma(q, r, set1(1.0f / 6.0f));
  q = fma(q, r, set1(0.5f));
  *p = fma(mul(r, r), q, r);
  *two_n = pow2(n);
}

// Zero below -87.33 (so for -inf: masked keys); clamped above 88.
static inline F exp16(F x) {
  const F low = set1(-87.33f);
  F two_n, p;
  exp_parts(min(set1(88.0f), max(low, x)), &two_n, &p);
  return select_less(x, low, set1(0.0f), fma(two_n, p, two_n));
}

// 2^x for x <= 0: 2^n times a polynomial of degree 5 that is 2^f within 1e-7 for |f| <= 1/2. 2^-120 below x =
// -120.
static inline F weight16(F x) {
  x = max(set1(-120.0f), x);
  const F n = round_even(x), f = sub(x, n);
  F p = set1(1.3264727313e-3f);
  p = fma(p, f, set1(9.6715129912e-3f));
  p = fma(p, f, set1(5.5507335812e-2f));
  p = fma(p, f, set1(2.4022242427e-1f));
  p = fma(p, f, set1(6.9314700365e-1f));
  return times_pow2(fma(p, f, set1(1.0f)), n);
}

// tanh(z) = e / (e + 2), e = exp(2|z|) - 1 without cancellation; 1 in float32 beyond |z| = 9.02.
static inline F tanh16(F z) {
  F two_n, p;
  exp_parts(min(set1(20.0f), mul(abs(z), set1(2.0f))), &two_n, &p);
  const F e = fma(two_n, p, sub(two_n, set1(1.0f)));
  return copy_sign(div(e, add(e, set1(2.0f))), z);
}

// 0.5 x (1 + tanh(c (x + 0.044715 x^3))) = x / (1 + exp(-2c (x + 0.044715 x^3))), c = sqrt(2 / pi).
static inline F gelu16(F x) {
  const F inner = fma(mul(x, x), set1(-0.0713548162726002527f), set1(-1.59576912160573071f));
  return div(x, add(set1(1.0f), exp16(mul(x, inner))));
}

// out[i] = f(lanes at i) for i < n; f may read further arrays through `load`, which pads with zeros.
template <class Body>
static inline void each16(int64_t n, Body body) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) body(i, 16);
  if (i < n) body(i, static_cast<int>(n - i));
}

static inline F load(const float* x, int lanes) { return lanes == 16 ? load(x) : load_part(x, lanes); }
static inline void store(float* x, F v, int lanes) {
  if (lanes == 16) {
    store(x, v);
  } else {
    store_part(x, v, lanes);
  }
}
