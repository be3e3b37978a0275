// A persistent pool whose threads walk one job together, and counters they wait on.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <stdexcept>
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

// The system, or a build without threads, refused one; the message says what to do.
struct NoThreadsError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class ThreadPool {
 public:
  // `threads` in all, the caller of run() being the first. Workers start at the first run that needs them.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return size_; }

  // Calls job(context, thread) on thread 0 and on those of 1 .. threads-1 that come before thread 0 is done,
  // and returns when all of these are: a thread that has no core now holds up nobody. So the job must be done
  // when any thread comes to its end. It must not throw. Throws NoThreadsError.
  void run(int threads, void (*job)(void*, int), void* context) { run(threads, job, context, false); }
  // The same, on all threads.
  void run_on_all(void (*job)(void*, int), void* context) { run(size_, job, context, true); }

 private:
  void run(int threads, void (*job)(void*, int), void* context, bool on_all);
  bool enter(uint32_t ticket);
  void start_workers();
  void stop_workers();
  void work(int thread, uint32_t seen);

  const int size_;
  std::mutex mutex_;  // one job at a time
  std::vector<std::thread> workers_;
  int owner_pid_ = 0;
  void (*job_)(void*, int) = nullptr;
  void* context_ = nullptr;
  alignas(64) std::atomic<uint32_t> ticket_{0};  // job number << 8 | threads; threads 0 means stop
  alignas(64) std::atomic<uint64_t> door_{0};    // job number << 16 | kClosed | threads that have entered it
  Pieces finished_;                              // threads that are done with the job
};

}  // namespace geminate
