// Scratch of the operations that need more than row buffers.
#pragma once

#include <vector>

#include "program/program.h"

namespace geminate {

// A row sent to an expert is an *assignment*; assignments are numbered expert by expert, rows ascending.
struct Program::Experts {
  int64_t experts = 0, top_k = 0, inner = 0, hidden = 0;
  std::vector<float> probability;  // [rows, experts]
  std::vector<int32_t> chosen;     // [rows, top_k] expert, ascending
  std::vector<float> weight;       // [rows, top_k]
  std::vector<int32_t> place;      // [rows, top_k] number of the assignment
  std::vector<int32_t> start;      // [experts + 1] first assignment of each expert
  std::vector<int32_t> row;        // [rows * top_k] row of each assignment
  std::vector<int32_t> expert;     // [rows * top_k] expert of each assignment
  std::vector<float> gate_up;      // [rows * top_k, 2 * inner]
  std::vector<float> down;         // [rows * top_k, hidden]

  void reserve(int64_t rows, int64_t k, const Matrix& up, const Matrix& lower);
};

struct Program::Clusters {
  std::vector<int32_t> chosen;  // [rows, top_k], scores descending
  void reserve(int64_t rows, int64_t top_k);
};

}  // namespace geminate
