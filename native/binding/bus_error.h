// A line on stderr when the process dies of SIGBUS, as it does when a mapped file is shortened.
#pragma once

#include <string>

namespace geminate {

// Installs the handler, or replaces its line. With a tail the line is head, the time (UTC), tail; without it
// is the head alone. The signal then takes its course, so that a supervisor sees it.
void report_bus_errors(const std::string& head, const std::string& tail);

}  // namespace geminate
