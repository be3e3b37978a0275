// The k largest of n values, in an order that never depends on the algorithm.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

namespace geminate {

// Orders indices by value, largest first, then by index; NaN last.
struct Descending {
  const float* x;
  bool operator()(int32_t a, int32_t b) const {
    const bool a_real = x[a] == x[a], b_real = x[b] == x[b];
    if (!a_real || !b_real) return a_real != b_real ? a_real : a < b;
    return x[a] > x[b] || (x[a] == x[b] && a < b);
  }
};

// Indices of the k <= n largest, in that order, into out [k].
inline void largest(const float* x, int64_t n, int64_t k, int32_t* out, std::vector<int32_t>& scratch) {
  scratch.resize(static_cast<size_t>(n));
  std::iota(scratch.begin(), scratch.end(), 0);
  std::partial_sort(scratch.begin(), scratch.begin() + k, scratch.end(), Descending{x});
  std::copy(scratch.begin(), scratch.begin() + k, out);
}

}  // namespace geminate
