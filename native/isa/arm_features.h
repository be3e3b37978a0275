// What a 64-bit ARM processor and its operating system offer.
#pragma once

namespace geminate {

struct ArmFeatures {
  bool dotprod = false;  // sdot, udot
  bool i8mm = false;     // smmla, usdot
  bool apple = false;    // a core by Apple
};

ArmFeatures arm_features();

}  // namespace geminate
