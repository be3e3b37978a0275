#include "isa/cpu.h"

#if defined(GEMINATE_AVXVNNI)
#include <cpuid.h>
#endif

#if defined(GEMINATE_NEON)
#include "isa/arm_features.h"
#endif
#include "sampling/kernels.h"

namespace geminate {

#if defined(GEMINATE_AVXVNNI)
static bool has_avxvnni() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a >> 4 & 1) != 0;
}
#endif

static std::vector<const Kernels*> supported() {
  std::vector<const Kernels*> found;
#if defined(GEMINATE_X86)
  // The compiler's run-time test also asks the operating system (xgetbv).
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vnni")) {
    found.push_back(avx512_kernels());
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
#if defined(GEMINATE_AVXVNNI)
    if (has_avxvnni()) found.push_back(avxvnni_kernels());
#endif
    found.push_back(avx2_kernels());
  }
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
