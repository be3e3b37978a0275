#include "isa/arm_features.h"

#if defined(__linux__)
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(_WIN32)
#include <windows.h>
#endif

#include <cstddef>
#include <cstdint>

namespace geminate {

#if defined(__linux__)

// Bits of AT_HWCAP and AT_HWCAP2, from Linux' arch/arm64/include/uapi/asm/hwcap.h: C libraries lack new ones.
static constexpr unsigned long kCpuid = 1ul << 11, kDotProd = 1ul << 20, kI8mm = 1ul << 13;

static bool by_apple(unsigned long capabilities) {
  if ((capabilities & kCpuid) == 0) return false;  // else reading the register would be illegal
  uint64_t id;
  __asm__("mrs %0, midr_el1" : "=r"(id));
  return (id >> 24 & 0xff) == 0x61;  // the implementer
}

ArmFeatures arm_features() {
  const unsigned long first = getauxval(AT_HWCAP), second = getauxval(AT_HWCAP2);
  return {(first & kDotProd) != 0, (second & kI8mm) != 0, by_apple(first)};
}

#elif defined(__APPLE__)

static bool has(const char* feature) {
  int value = 0;
  size_t size = sizeof value;
  return sysctlbyname(feature, &value, &size, nullptr, 0) == 0 && value != 0;
}

ArmFeatures arm_features() {
  return {has("hw.optional.arm.FEAT_DotProd"), has("hw.optional.arm.FEAT_I8MM"), true};
}

#elif defined(_WIN32)

// PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE and PF_ARM_V82_I8MM_INSTRUCTIONS_AVAILABLE, which older headers lack.
ArmFeatures arm_features() {
  return {IsProcessorFeaturePresent(43) != 0, IsProcessorFeaturePresent(66) != 0, false};
}

#else

ArmFeatures arm_features() { return {}; }

#endif

}  // namespace geminate
