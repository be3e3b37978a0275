// The loops of the sampler for AVX-512.
#include "sampling/kernels.h"
#include "sampling/noise.h"

namespace geminate::avx512 {
namespace {

constexpr const char* kIsaName = "avx512";
#include "sampling/kernels_impl.h"

}  // namespace

const SamplingKernels& sampling() { return kSampling; }
}  // namespace geminate::avx512
