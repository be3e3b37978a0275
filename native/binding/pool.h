// The thread pool as Python sees it.
#pragma once

#include <memory>
#include <string>

#include "binding/arrays.h"
#include "isa/cpu.h"
#include "program/probe.h"
#include "program/thread_pool.h"

namespace geminate {

inline const Kernels& kernels_named(const char* call, const std::string& isa) {
  const Kernels* kernels = find_kernels(isa);
  if (kernels != nullptr) return *kernels;
  std::string known;
  for (const std::string& name : supported_isas()) known += (known.empty() ? "" : ", ") + name;
  throw std::invalid_argument(std::string(call) + ": isa is " + isa + ", but this machine and build have " +
                              known);
}

struct PoolRef {
  std::shared_ptr<ThreadPool> pool;
  explicit PoolRef(int threads) : pool(std::make_shared<ThreadPool>(threads)) {}

  double read_seconds(const std::string& isa, In<uint8_t> data) const {
    const Kernels& kernels = kernels_named("read_seconds", isa);
    const nb::gil_scoped_release release;
    return geminate::read_seconds(*pool, kernels, data.data(), size_of(data));
  }
  double multiply_rate(const std::string& isa, int64_t rounds) const {
    const Kernels& kernels = kernels_named("multiply_rate", isa);
    require(rounds > 0, "multiply_rate: rounds must be positive, but is ", rounds);
    const nb::gil_scoped_release release;
    return geminate::multiply_rate(*pool, kernels, rounds);
  }
};

}  // namespace geminate
