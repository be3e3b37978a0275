// The ceilings of this machine, measured with the threads and instructions that passes use.
#pragma once

#include "contract.h"
#include "program/thread_pool.h"

namespace geminate {

// Seconds in which all threads together read `bytes` of `data` once.
double read_seconds(ThreadPool& pool, const Kernels& kernels, const uint8_t* data, int64_t bytes);

// int8 multiply-accumulates a second of all threads together, operands in registers.
double multiply_rate(ThreadPool& pool, const Kernels& kernels, int64_t rounds);

}  // namespace geminate
