#include "program/probe.h"

#include <algorithm>
#include <atomic>
#include <chrono>

namespace geminate {
namespace {

constexpr int64_t kPieceBytes = 1 << 20;

struct Job {
  const Kernels* kernels;
  const uint8_t* data = nullptr;
  int64_t bytes = 0, rounds = 0;
  std::atomic<int64_t> next{0};
  std::atomic<int32_t> seen{0};  // keeps the work from being optimized away
};

double seconds(ThreadPool& pool, void (*work)(void*, int), Job& job) {
  const auto began = std::chrono::steady_clock::now();
  pool.run_on_all(work, &job);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
}

}  // namespace

double read_seconds(ThreadPool& pool, const Kernels& kernels, const uint8_t* data, int64_t bytes) {
  Job job{&kernels, data, bytes / 256 * 256};
  const auto work = [](void* context, int) {
    Job& j = *static_cast<Job*>(context);
    for (int64_t at; (at = j.next.fetch_add(kPieceBytes)) < j.bytes;) {
      j.seen.fetch_or(j.kernels->read_bytes(j.data + at, std::min(kPieceBytes, j.bytes - at)));
    }
  };
  return seconds(pool, work, job);
}

double multiply_rate(ThreadPool& pool, const Kernels& kernels, int64_t rounds) {
  Job job{&kernels};
  job.rounds = rounds;
  const auto work = [](void* context, int) {
    Job& j = *static_cast<Job*>(context);
    j.seen.fetch_or(j.kernels->multiply_bytes(j.rounds));
  };
  const double took = seconds(pool, work, job);
  return static_cast<double>(rounds * kProbeDots * 64 * pool.size()) / took;
}

}  // namespace geminate
