#include "isa/cpu.h"

#include "isa/x86_features.h"

#if defined(GEMINATE_NEON)
#include "isa/arm_features.h"
#endif
#include "sampling/kernels.h"

namespace geminate {

static std::vector<const Kernels*> supported() {
  std::vector<const Kernels*> found;
#if defined(GEMINATE_X86)
  const X86Features has = x86_features();
  if (has.avx512) found.push_back(avx512_kernels());
#if defined(GEMINATE_AVXVNNI)
  if (has.avxvnni) found.push_back(avxvnni_kernels());
#endif
  if (has.avx2) found.push_back(avx2_kernels());
#endif
#if defined(GEMINATE_NEON)
  // On Apple's cores smmla was measured 10 to 25 % slower than sdot; Arm's own take two steps' work in one.
  const ArmFeatures has = arm_features();
  const bool i8mm = has.dotprod && has.i8mm;
  if (i8mm && !has.apple) found.push_back(neon_i8mm_kernels());
  if (has.dotprod) found.push_back(neon_dotprod_kernels());
  if (i8mm && has.apple) found.push_back(neon_i8mm_kernels());
  found.push_back(neon_kernels());
#endif
  found.push_back(scalar_kernels());
  return found;
}

std::vector<std::string> supported_isas() {
  std::vector<std::string> names;
  for (const Kernels* k : supported()) names.emplace_back(k->name);
  return names;
}

const Kernels* find_kernels(const std::string& name) {
  for (const Kernels* k : supported()) {
    if (name.empty() || name == k->name) return k;
  }
  return nullptr;
}

const SamplingKernels& sampling_kernels(const std::string& isa) {
#if defined(GEMINATE_X86)
  if (isa == avx512::sampling().name) return avx512::sampling();
  if (isa == avx2::sampling().name || isa == "avxvnni") return avx2::sampling();
#else
  static_cast<void>(isa);
#endif
  return scalar::sampling();
}

}  // namespace geminate
