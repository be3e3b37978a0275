// The loops of the sampler for AVX2.
#include "sampling/kernels.h"
#include "sampling/noise.h"

namespace geminate::avx2 {
namespace {

constexpr const char* kIsaName = "avx2";
#include "sampling/kernels_impl.h"

}  // namespace

const SamplingKernels& sampling() { return kSampling; }
}  // namespace geminate::avx2
