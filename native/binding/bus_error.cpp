#include "binding/bus_error.h"

#include <csignal>
#include <cstring>
#include <ctime>
#include <stdexcept>
#include <unistd.h>

namespace geminate {
namespace {

constexpr size_t kPart = 512;
constexpr size_t kStamp = 24;
char head_text[kPart], tail_text[kPart];
size_t head_size, tail_size;

void digits(char* at, long value, int count) {
  for (int i = count - 1; i >= 0; --i, value /= 10) at[i] = static_cast<char>('0' + value % 10);
}

// Like 2026-01-31T23:59:59.999Z; strftime may not be called in a signal handler.
void stamp(char* at) {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  const long second = now.tv_sec % 86400;
  // Days since 0000-03-01, in eras of 400 years; a year begins in March, so that the leap day is its last.
  const long days = now.tv_sec / 86400 + 719468;
  const long era = days / 146097, day = days % 146097;
  const long year = (day - day / 1460 + day / 36524 - day / 146096) / 365;
  const long of_year = day - (365 * year + year / 4 - year / 100);
  const long month = (5 * of_year + 2) / 153;
  std::memcpy(at, "0000-00-00T00:00:00.000Z", kStamp);
  digits(at, era * 400 + year + (month >= 10), 4);
  digits(at + 5, month < 10 ? month + 3 : month - 9, 2);
  digits(at + 8, of_year - (153 * month + 2) / 5 + 1, 2);
  digits(at + 11, second / 3600, 2);
  digits(at + 14, second / 60 % 60, 2);
  digits(at + 17, second % 60, 2);
  digits(at + 20, now.tv_nsec / 1000000, 3);
}

// Only async-signal-safe calls; SA_RESETHAND has restored the default action, so that raising ends the
// process.
void on_bus_error(int number, siginfo_t* info, void*) {
  if (info->si_code == BUS_ADRERR) {  // not one that was sent by kill
    char line[2 * kPart + kStamp];
    size_t size = head_size;
    std::memcpy(line, head_text, head_size);
    if (tail_size > 0) {
      stamp(line + size);
      std::memcpy(line + size + kStamp, tail_text, tail_size);
      size += kStamp + tail_size;
    }
    [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line, size);
  }
  raise(number);
}

}  // namespace

void report_bus_errors(const std::string& head, const std::string& tail) {
  if (head.size() > kPart || tail.size() > kPart)
    throw std::invalid_argument("head and tail hold at most 512 bytes");
  struct sigaction action{};
  sigemptyset(&action.sa_mask);
  action.sa_handler = SIG_DFL;
  sigaction(SIGBUS, &action, nullptr);  // not while the texts change
  head_size = head.copy(head_text, kPart);
  tail_size = tail.copy(tail_text, kPart);
  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO | static_cast<int>(SA_RESETHAND);
  sigaction(SIGBUS, &action, nullptr);
}

}  // namespace geminate
