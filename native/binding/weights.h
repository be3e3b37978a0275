// Weights and the arrays they stand in, kept alive.
#pragma once

#include <optional>
#include <string>

#include "binding/arrays.h"
#include "contract.h"

namespace geminate {

struct MatrixRef {
  Matrix m{};
  In<uint8_t> data;
  std::optional<In<uint16_t>> scales;
  std::optional<In<float>> row_scales;

  MatrixRef(const std::string& format, int64_t n, int64_t k, int64_t stack, In<uint8_t> data,
            std::optional<In<uint16_t>> scales, std::optional<In<float>> row_scales, float input_scale,
            float output_scale);
};

struct TableRef {
  RowTable t{};
  In<uint8_t> data;
  std::optional<In<uint16_t>> scales;
  std::optional<In<float>> row_scales;

  TableRef(const std::string& format, int64_t rows, int64_t width, In<uint8_t> data,
           std::optional<In<uint16_t>> scales, std::optional<In<float>> row_scales);
};

}  // namespace geminate
