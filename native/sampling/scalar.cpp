// Whatever the compiler takes for granted: every machine.
#include "sampling/kernels.h"
#include "sampling/noise.h"

namespace geminate::scalar {
namespace {

constexpr const char* kIsaName = "scalar";
#include "sampling/kernels_impl.h"

}  // namespace

const SamplingKernels& sampling() { return kSampling; }
}  // namespace geminate::scalar
