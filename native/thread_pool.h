// A persistent pool whose threads walk one job together and meet at barriers.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace geminate {

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

  // Within a job: waits until all of its threads have come here.
  void barrier();

 private:
  void start_workers();
  void work(int thread, uint32_t seen);

  const int size_;
  std::mutex mutex_;  // one job at a time
  std::vector<std::thread> workers_;
  int owner_pid_ = 0;
  void (*job_)(void*, int) = nullptr;
  void* context_ = nullptr;
  int active_ = 1;
  alignas(64) std::atomic<uint32_t> ticket_{0};  // job number << 8 | threads; threads 0 means stop
  alignas(64) std::atomic<uint32_t> finished_{0};
  alignas(64) std::atomic<uint32_t> arrived_{0};
  alignas(64) std::atomic<uint32_t> phase_{0};
};

}  // namespace geminate
