// POSIX; bus_error_windows.cpp is Windows' side.
#include "binding/bus_error.h"

#include <csignal>
#include <ctime>
#include <unistd.h>

#include "binding/fault_line.h"

namespace geminate {
namespace {

FaultLine fault;

// gmtime may not be called in a signal handler.
Moment now_utc() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  const int second = static_cast<int>(now.tv_sec % 86400);
  // Days since 0000-03-01, in eras of 400 years; a year begins in March, so that the leap day is its last.
  const int days = static_cast<int>(now.tv_sec / 86400) + 719468;
  const int era = days / 146097, day = days % 146097;
  const int year = (day - day / 1460 + day / 36524 - day / 146096) / 365;
  const int of_year = day - (365 * year + year / 4 - year / 100);
  const int month = (5 * of_year + 2) / 153;
  return {.year = era * 400 + year + (month >= 10),
          .month = month < 10 ? month + 3 : month - 9,
          .day = of_year - (153 * month + 2) / 5 + 1,
          .hour = second / 3600,
          .minute = second / 60 % 60,
          .second = second % 60,
          .millisecond = static_cast<int>(now.tv_nsec / 1000000)};
}

// Only async-signal-safe calls; SA_RESETHAND has restored the default action, so that raising ends the
// process.
void on_bus_error(int number, siginfo_t* info, void*) {
  if (info->si_code == BUS_ADRERR) {  // not one that was sent by kill
    char line[FaultLine::kSize];
    const size_t size = fault.write(line, fault.timed() ? now_utc() : Moment{});
    [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line, size);
  }
  raise(number);
}

}  // namespace

void report_bus_errors(const std::string& head, const std::string& tail) {
  FaultLine next;
  next.set(head, tail);
  struct sigaction action{};
  sigemptyset(&action.sa_mask);
  action.sa_handler = SIG_DFL;
  sigaction(SIGBUS, &action, nullptr);  // not while the texts change
  fault = next;
  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO | static_cast<int>(SA_RESETHAND);
  sigaction(SIGBUS, &action, nullptr);
}

}  // namespace geminate
