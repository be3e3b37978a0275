#include "program/thread_pool.h"

#include <chrono>
#include <string>
#include <system_error>

#if !defined(_WIN32)
#include <unistd.h>
#endif

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

namespace geminate {
namespace {

// By which a fork is noticed; Windows has none.
int process_id() {
#if defined(_WIN32)
  return 1;
#else
  return static_cast<int>(getpid());
#endif
}

// How long a waiting thread keeps its core. Longer than the imbalance of a step, shorter than a time slice:
// a peer that lost its core may be moved to the one that a sleeping thread gives up.
constexpr std::chrono::microseconds kSpin{60};
// How long an idle thread stays awake for the next job: longer than what stands between two passes of a small
// model. Waking a sleeping thread takes as long as such a pass.
constexpr std::chrono::microseconds kIdleSpin{250};
constexpr uint64_t kClosed = 1 << 15, kEntered = kClosed - 1;  // bits of the door

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

// Whether `ready` came true within `limit`.
template <class Ready>
inline bool spin_until(std::chrono::microseconds limit, Ready ready) {
  for (int i = 0; i < 64; ++i) {
    if (ready()) return true;
    pause();
  }
  const auto until = std::chrono::steady_clock::now() + limit;
  do {
    for (int i = 0; i < 16; ++i) {
      if (ready()) return true;
      pause();
    }
  } while (std::chrono::steady_clock::now() < until);
  return false;
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

void Pieces::finish(uint32_t pieces, uint32_t total) {
  if (done.fetch_add(pieces, std::memory_order_acq_rel) + pieces == total) done.notify_all();
}

void Pieces::wait(uint32_t total) {
  if (spin_until(kSpin, [&] { return done.load(std::memory_order_acquire) == total; })) return;
  for (uint32_t seen; (seen = done.load(std::memory_order_acquire)) != total;) {
    done.wait(seen, std::memory_order_acquire);
  }
}

ThreadPool::ThreadPool(int threads) : size_(threads < 1 ? 1 : threads > 255 ? 255 : threads) {}

ThreadPool::~ThreadPool() {
  if (owner_pid_ != process_id()) {  // a forked child: the threads live in the parent
    for (std::thread& t : workers_) t.detach();
    return;
  }
  stop_workers();
}

void ThreadPool::stop_workers() {
  // A new number: a thread that no job has met yet would not notice the ticket it began with.
  ticket_.store(((ticket_.load(std::memory_order_relaxed) >> 8) + 1) << 8, std::memory_order_release);
  ticket_.notify_all();
  for (std::thread& t : workers_) t.join();
  workers_.clear();
}

void ThreadPool::start_workers() {
  for (std::thread& t : workers_) t.detach();  // only after a fork, where they are gone
  workers_.clear();
  owner_pid_ = process_id();
  const uint32_t seen = ticket_.load();
  try {
    for (int i = 1; i < size_; ++i) workers_.emplace_back([this, i, seen] { work(i, seen); });
  } catch (const std::system_error& error) {
    const size_t begun = workers_.size() + 1;
    stop_workers();
    owner_pid_ = 0;  // the next run tries again
    throw NoThreadsError("cannot start " + std::to_string(size_) + " threads (" + error.code().message() +
                         " after " + std::to_string(begun) +
                         "): ask for fewer, with --threads 1 for one, or raise the limits of "
                         "processes and memory of this user or container");
  }
}

void ThreadPool::run(int threads, void (*job)(void*, int), void* context, bool on_all) {
  const std::lock_guard<std::mutex> lock(mutex_);
  [[maybe_unused]] const PlainFloats plain;
  if (threads > size_) threads = size_;
  if (threads <= 1) {
    job(context, 0);
    return;
  }
  if (owner_pid_ != process_id()) start_workers();
  job_ = job;
  context_ = context;
  finished_.done.store(0, std::memory_order_relaxed);
  const uint32_t next = (ticket_.load(std::memory_order_relaxed) >> 8) + 1;
  const uint32_t ticket = next << 8 | static_cast<uint32_t>(threads);
  door_.store(static_cast<uint64_t>(ticket >> 8) << 16, std::memory_order_release);
  ticket_.store(ticket, std::memory_order_release);
  ticket_.notify_all();
  job(context, 0);
  if (on_all) finished_.wait(static_cast<uint32_t>(threads) - 1);
  const uint64_t entered = door_.fetch_or(kClosed, std::memory_order_acq_rel) & kEntered;
  finished_.wait(static_cast<uint32_t>(entered));
}

// Takes part in a job unless it is closed: then thread 0 waits for this one.
bool ThreadPool::enter(uint32_t ticket) {
  uint64_t door = door_.load(std::memory_order_acquire);
  do {
    if (door >> 16 != ticket >> 8 || (door & kClosed) != 0) return false;
  } while (!door_.compare_exchange_weak(door, door + 1, std::memory_order_acq_rel));
  return true;
}

void ThreadPool::work(int thread, uint32_t seen) {
  [[maybe_unused]] const PlainFloats plain;
  for (;;) {
    if (!spin_until(kIdleSpin, [&] { return ticket_.load(std::memory_order_acquire) != seen; })) {
      ticket_.wait(seen, std::memory_order_acquire);
    }
    const uint32_t ticket = ticket_.load(std::memory_order_acquire);
    if (ticket == seen) continue;
    seen = ticket;
    const uint32_t threads = ticket & 255u;
    if (threads == 0) return;
    if (static_cast<uint32_t>(thread) >= threads || !enter(ticket)) continue;
    job_(context_, thread);
    finished_.done.fetch_add(1, std::memory_order_acq_rel);
    finished_.done.notify_all();
  }
}

}  // namespace geminate
