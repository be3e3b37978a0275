// The loops of kernels.h in plain C++, 64 logits at a time, which compilers turn into vectors. Included once
// for each instruction set, inside its namespace. No standard-library template may be used here: the linker
// could keep this file's copy of it, with instructions that another machine lacks.

constexpr int kBlock = 64;
static_assert(kStripe % kBlock == 0 && kBlock % kLanes == 0);

typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float))));
typedef int32_t LaneBits __attribute__((vector_size(kLanes * sizeof(float))));

static inline bool any_at_least(const float* x, float low) {
  int32_t any = 0;
  for (int i = 0; i < kBlock; ++i) any |= x[i] >= low ? 1 : 0;
  return any != 0;
}

static bool scan(const float* x, float* maxima) {
  constexpr int kChains = kBlock / kLanes;
  Lanes most[kChains];
  LaneBits size[kChains];  // largest bits without the sign: those of infinity and NaN are above all others
  for (int c = 0; c < kChains; ++c) {
    __builtin_memcpy(&most[c], x + c * kLanes, sizeof most[c]);
    size[c] = reinterpret_cast<LaneBits>(most[c]) & 0x7fffffff;
  }
  for (int i = kBlock; i < kStripe; i += kBlock) {
    for (int c = 0; c < kChains; ++c) {
      Lanes v;
      __builtin_memcpy(&v, x + i + c * kLanes, sizeof v);
      const LaneBits bits = reinterpret_cast<LaneBits>(v) & 0x7fffffff;
      most[c] = v > most[c] ? v : most[c];
      size[c] = bits > size[c] ? bits : size[c];
    }
  }
  for (int c = 1; c < kChains; ++c) {
    most[0] = most[c] > most[0] ? most[c] : most[0];
    size[0] = size[c] > size[0] ? size[c] : size[0];
  }
  __builtin_memcpy(maxima, &most[0], sizeof most[0]);
  int32_t largest = 0;
  for (int i = 0; i < kLanes; ++i) largest = size[0][i] > largest ? size[0][i] : largest;
  return largest < 0x7f800000;
}

static bool finite(const float* x, int64_t n) {
  int32_t bad = 0;
  for (int64_t i = 0; i < n; ++i) {
    bad |= (__builtin_bit_cast(int32_t, x[i]) & 0x7f800000) == 0x7f800000 ? 1 : 0;
  }
  return bad == 0;
}

static void restrict_to(const float* x, const uint8_t* allowed, int64_t n, float* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = allowed[i] != 0 ? x[i] : -__builtin_inff();
}

static int collect(const float* x, float low, float high, int32_t* out) {
  int found = 0;
  for (int i = 0; i < kStripe; i += kBlock) {
    if (!any_at_least(x + i, low)) continue;
    for (int j = i; j < i + kBlock; ++j) {
      out[found] = j;
      found += x[j] >= low && x[j] <= high ? 1 : 0;
    }
  }
  return found;
}

static uint64_t weigh(const float* x, double peak, double inverse, float low, float high, uint64_t* above) {
  uint64_t total = 0, part = 0;
  for (int i = 0; i < kStripe; i += kBlock) {
    if (!any_at_least(x + i, low)) continue;
    for (int j = i; j < i + kBlock; ++j) {
      const uint64_t weight = elementary::weight((static_cast<double>(x[j]) - peak) * inverse);
      total += weight;
      part += x[j] >= high ? weight : 0;
    }
  }
  *above += part;
  return total;
}

static void weigh_buckets(const float* x, double peak, double inverse, float low, uint64_t* buckets) {
  for (int i = 0; i < kStripe; i += kBlock) {
    if (!any_at_least(x + i, low)) continue;
    uint64_t weights[kBlock];
    int32_t at[kBlock];
    for (int j = 0; j < kBlock; ++j) {
      const double y = (static_cast<double>(x[i + j]) - peak) * inverse;
      weights[j] = elementary::weight(y);
      at[j] = bucket_of(y);
    }
    for (int j = 0; j < kBlock; ++j) buckets[at[j]] += weights[j];
  }
}

static int noisy(const float* x, uint64_t state, const NoiseBound& bound, int32_t* out) {
  const float low = bound.low, peak = bound.peak, slope = bound.slope, start = bound.start;
  int found = 0;
  for (int i = 0; i < kStripe; i += kBlock) {
    if (!any_at_least(x + i, low)) continue;
    const uint64_t first = state + static_cast<uint64_t>(i) * kGamma;
    int32_t hit[kBlock], any = 0;
    for (int j = 0; j < kBlock; ++j) {
      const uint64_t bits = mix(first + static_cast<uint64_t>(j) * kGamma);
      const float v = x[i + j];
      hit[j] = (v >= low ? 1 : 0) & (may_win(bits, (v - peak) * slope + start) ? 1 : 0);
      any |= hit[j];
    }
    if (any == 0) continue;
    for (int j = 0; j < kBlock; ++j) {
      out[found] = i + j;
      found += hit[j];
    }
  }
  return found;
}

static constexpr SamplingKernels kSampling = {
    .name = kIsaName,
    .scan = scan,
    .finite = finite,
    .restrict_to = restrict_to,
    .collect = collect,
    .weigh = weigh,
    .weigh_buckets = weigh_buckets,
    .noisy = noisy,
};
