// A persistent pool whose threads walk one job together, and counters they wait on.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace geminate {

// How many pieces of some work are finished. Threads wait for pieces, never for each other: one that lost its
// core between two pieces holds up nobody.
struct alignas(64) Pieces {
  std::atomic<uint32_t> done{0};

  // Adds finished pieces and wakes whoever waits for the last of `total`.
  void finish(uint32_t pieces, uint32_t total);
  // Spins briefly, then sleeps until `total` pieces are finished.
  void wait(uint32_t total);
};

class ThreadPool {
 public:
  // `threads` in all, the caller of run() being the first. Workers start at the first run that needs them.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return size_; }

  // Calls job(context, thread) on threads 0 .. threads-1 and returns when all are done. The job must not
  // throw.
  void run(int threads, void (*job)(void*, int), void* context);

 private:
  void start_workers();
  void work(int thread, uint32_t seen);

  const int size_;
  std::mutex mutex_;  // one job at a time
  std::vector<std::thread> workers_;
  int owner_pid_ = 0;
  void (*job_)(void*, int) = nullptr;
  void* context_ = nullptr;
  alignas(64) std::atomic<uint32_t> ticket_{0};  // job number << 8 | threads; threads 0 means stop
  Pieces finished_;                              // threads that are done with the job
};

}  // namespace geminate
