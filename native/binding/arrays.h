// What every binding needs: arrays, and errors that name the argument, what was given and what was expected.
#pragma once

#include <cstdio>  // nanobind 3.1 uses it, and Python.h lacks it under the stable ABI

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <sstream>
#include <stdexcept>

namespace geminate {

namespace nb = nanobind;

template <class T>
using In = nb::ndarray<const T, nb::c_contig, nb::device::cpu>;
template <class T>
using Out = nb::ndarray<T, nb::c_contig, nb::device::cpu>;

// ValueError with the parts joined unless ok.
template <class... Parts>
void require(bool ok, const Parts&... parts) {
  if (ok) return;
  std::ostringstream text;
  (text << ... << parts);
  throw std::invalid_argument(text.str());
}

template <class Array>
int64_t size_of(const Array& array) {
  return static_cast<int64_t>(array.size());
}

// "run: hidden has 64 values, expected 385 for 5 rows of 77".
template <class Array, class... Reason>
void require_size(const Array& array, int64_t expected, const char* call, const char* name,
                  const Reason&... reason) {
  require(size_of(array) == expected, call, ": ", name, " has ", array.size(), " values, expected ", expected,
          " for ", reason...);
}

}  // namespace geminate
