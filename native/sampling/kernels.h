// Loops over a stripe of logits, compiled for each instruction set. What they return does not depend on it:
// they compare, hash and add integers; the only rounding is that of elementary::weight.
#pragma once

#include <cstdint>
#include <string>

namespace geminate {

constexpr int kStripe = 1024;  // logits of a call, contiguous; -inf where there is none or none is allowed
constexpr int kLanes = 16;     // lane l of a stripe holds the logits at l, l + 16, ...
constexpr int kBuckets =
    1024;  // of scaled logits: bucket b holds -(b + 1) / 32 < y <= -b / 32, the last all below

// The bucket of a scaled logit y <= 0.
static inline int32_t bucket_of(double y) {
  const double low = y > -31.984375 ? y : -31.984375;
  return static_cast<int32_t>(low * -32.0);
}

// What a token needs to win: x >= low, and noise past a bound; see noise.h.
struct NoiseBound {
  float low;
  float peak, slope, start;  // exp(y - best) <= 2**((x - peak) * slope + start - 127)
};

struct SamplingKernels {
  const char* name;
  // The largest of each lane into maxima [kLanes]; whether all are finite.
  bool (*scan)(const float* x, float* maxima);
  bool (*finite)(const float* x, int64_t n);
  // to[i] = allowed[i] ? x[i] : -inf.
  void (*restrict_to)(const float* x, const uint8_t* allowed, int64_t n, float* to);
  // Indices with low <= x[i] <= high, ascending, into out [kStripe]; returns how many.
  int (*collect)(const float* x, float low, float high, int32_t* out);
  // Sum of weight((x - peak) * inverse); whatever is below `low` has none. Adds the part of it with x >= high
  // to `above`.
  uint64_t (*weigh)(const float* x, double peak, double inverse, float low, float high, uint64_t* above);
  // All of it, added up by bucket.
  void (*weigh_buckets)(const float* x, double peak, double inverse, float low, uint64_t* buckets);
  // Indices of what may win, ascending, into out [kStripe]; `state` is the noise's counter of x[0].
  int (*noisy)(const float* x, uint64_t state, const NoiseBound& bound, int32_t* out);
};

// Those of the instruction set of that name; there must be one.
const SamplingKernels& sampling_kernels(const std::string& isa);

namespace scalar {
const SamplingKernels& sampling();
}
#if defined(GEMINATE_X86)
namespace avx2 {
const SamplingKernels& sampling();
}
namespace avx512 {
const SamplingKernels& sampling();
}
#endif

}  // namespace geminate
