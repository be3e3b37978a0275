// Which kernels this machine can run.
#pragma once

#include <string>
#include <vector>

#include "contract.h"

namespace geminate {

// Names of the instruction sets this build has and this CPU supports, best first.
std::vector<std::string> supported_isas();

// Kernels by name, "" for the best; null if the machine or the build lacks them.
const Kernels* find_kernels(const std::string& name);

}  // namespace geminate
