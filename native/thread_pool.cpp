#include "thread_pool.h"

#include <sched.h>
#include <unistd.h>

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

namespace geminate {
namespace {

constexpr int kPauses = 200;      // a few thousand cycles: longer than a balanced step's imbalance
constexpr int kIdleYields = 300;  // how long an idle worker stays awake for the next job: about 0.1 ms

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

// Spins briefly, then gives the core away each time: a preempted peer may need it.
template <class Ready>
inline void wait_until(Ready ready) {
  for (int i = 0; !ready(); ++i) {
    if (i < kPauses) {
      pause();
    } else {
      sched_yield();
    }
  }
}

// Default rounding, no flush to zero, whatever other libraries have set in this thread.
class PlainFloats {
 public:
#if defined(__x86_64__)
  PlainFloats() : saved_(_mm_getcsr()) { _mm_setcsr(0x1f80); }
  ~PlainFloats() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#endif
};

}  // namespace

ThreadPool::ThreadPool(int threads) : size_(threads < 1 ? 1 : threads > 255 ? 255 : threads) {}

ThreadPool::~ThreadPool() {
  if (owner_pid_ != getpid()) {  // a forked child: the threads live in the parent
    for (std::thread& t : workers_) t.detach();
    return;
  }
  ticket_.store(0, std::memory_order_release);
  ticket_.notify_all();
  for (std::thread& t : workers_) t.join();
}

void ThreadPool::start_workers() {
  for (std::thread& t : workers_) t.detach();  // only after a fork, where they are gone
  workers_.clear();
  owner_pid_ = getpid();
  const uint32_t seen = ticket_.load();
  for (int i = 1; i < size_; ++i) workers_.emplace_back([this, i, seen] { work(i, seen); });
}

void ThreadPool::run(int threads, void (*job)(void*, int), void* context) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const PlainFloats plain;
  if (threads > size_) threads = size_;
  active_ = threads;
  if (threads <= 1) {
    job(context, 0);
    return;
  }
  if (owner_pid_ != getpid()) start_workers();
  job_ = job;
  context_ = context;
  finished_.store(0, std::memory_order_relaxed);
  const uint32_t next = (ticket_.load(std::memory_order_relaxed) >> 8) + 1;
  ticket_.store(next << 8 | static_cast<uint32_t>(threads), std::memory_order_release);
  ticket_.notify_all();
  job(context, 0);
  const uint32_t others = static_cast<uint32_t>(threads) - 1;
  wait_until([&] { return finished_.load(std::memory_order_acquire) == others; });
}

void ThreadPool::work(int thread, uint32_t seen) {
  const PlainFloats plain;
  for (;;) {
    uint32_t ticket = ticket_.load(std::memory_order_acquire);
    for (int i = 0; ticket == seen && i < kPauses + kIdleYields; ++i) {
      if (i < kPauses) {
        pause();
      } else {
        sched_yield();
      }
      ticket = ticket_.load(std::memory_order_acquire);
    }
    if (ticket == seen) {
      ticket_.wait(seen, std::memory_order_acquire);
      continue;
    }
    seen = ticket;
    const uint32_t threads = ticket & 255u;
    if (threads == 0) return;
    if (static_cast<uint32_t>(thread) >= threads) continue;
    job_(context_, thread);
    finished_.fetch_add(1, std::memory_order_release);
  }
}

void ThreadPool::barrier() {
  const uint32_t phase = phase_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == static_cast<uint32_t>(active_)) {
    arrived_.store(0, std::memory_order_relaxed);
    phase_.store(phase + 1, std::memory_order_release);
    return;
  }
  wait_until([&] { return phase_.load(std::memory_order_acquire) != phase; });
}

}  // namespace geminate
