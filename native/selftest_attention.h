// The part of the self-test that compares attention.
#pragma once

namespace geminate {

// Counts comparisons into checks; returns how many differ, each with a line on stdout.
int attention_failures(int* checks);

}  // namespace geminate
