// Windows' counterpart of SIGBUS: a page of a mapped file that cannot be read. Has not been run on Windows.
#include "binding/bus_error.h"

#define WIN32_LEAN_AND_MEAN
#include <windows.h>

#include "binding/fault_line.h"

namespace geminate {
namespace {

FaultLine fault;
PVOID installed = nullptr;

Moment now_utc() {
  SYSTEMTIME now{};
  GetSystemTime(&now);
  return {.year = now.wYear,
          .month = now.wMonth,
          .day = now.wDay,
          .hour = now.wHour,
          .minute = now.wMinute,
          .second = now.wSecond,
          .millisecond = now.wMilliseconds};
}

LONG CALLBACK on_exception(EXCEPTION_POINTERS* found) {
  if (found->ExceptionRecord->ExceptionCode == EXCEPTION_IN_PAGE_ERROR) {
    char line[FaultLine::kSize];
    const size_t size = fault.write(line, now_utc());
    DWORD written = 0;
    WriteFile(GetStdHandle(STD_ERROR_HANDLE), line, static_cast<DWORD>(size), &written, nullptr);
  }
  return EXCEPTION_CONTINUE_SEARCH;  // nobody handles it, so the process ends
}

}  // namespace

void report_bus_errors(const std::string& head, const std::string& tail) {
  FaultLine next;
  next.set(head, tail);
  if (installed != nullptr) RemoveVectoredExceptionHandler(installed);  // not while the texts change
  fault = next;
  installed = AddVectoredExceptionHandler(1, on_exception);
}

}  // namespace geminate
