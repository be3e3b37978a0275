// Self-test without Python: every instruction set, every row count, odd sizes; exits non-zero on a
// difference. `quick`: few row counts, for emulated processors.
#include <cstdio>
#include <cstring>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "contract.h"
#include "isa/cpu.h"
#include "kernels/multiply.h"
#include "selftest_attention.h"

namespace {

using namespace geminate;

struct Weights {
  Matrix m{};
  std::vector<uint8_t> data;
  std::vector<uint16_t> scales;
  std::vector<float> row_scales;
};

Weights random_weights(Format format, int64_t n, int64_t k, std::mt19937& rng) {
  Weights w;
  const int64_t columns = info(format).columns;
  w.m = {format, n, k, (n + 15) / 16, (k + columns - 1) / columns, 1, nullptr, nullptr};
  const int64_t cells = w.m.tiles * w.m.groups;
  w.data.resize(static_cast<size_t>(cells * info(format).cell_bytes()));
  if (format == Format::bf16) {
    for (size_t i = 0; i < w.data.size(); i += 2) {
      w.data[i] = static_cast<uint8_t>(rng());
      w.data[i + 1] = static_cast<uint8_t>(0x3e + (rng() & 1) * 0x80);  // about 0.1 to 0.5, either sign
    }
  } else if (info(format).row_scales()) {
    for (uint8_t& b : w.data) b = static_cast<uint8_t>(rng());
    w.row_scales.resize(static_cast<size_t>(w.m.tiles * 16));
    for (float& s : w.row_scales) s = static_cast<float>(rng() % 1000) * 1e-5f;
    w.m.row_scales = w.row_scales.data();
  } else {
    for (uint8_t& b : w.data)
      b = static_cast<uint8_t>(rng());  // int8: -128 among them, which some files hold
    // Records: float16 numbers of either sign in the block formats, any bytes behind them.
    const int64_t words = 16 * info(format).record_words(), halves = 16 * info(format).halves;
    w.scales.resize(static_cast<size_t>(w.m.tiles * w.m.blocks() * words));
    for (size_t i = 0; i < w.scales.size(); ++i) {
      const bool half = static_cast<int64_t>(i) % words < halves;
      const uint32_t sign = info(format).stored > 0 ? rng() & 0x8000 : 0;
      w.scales[i] = static_cast<uint16_t>(half ? sign + 0x2000 + (rng() & 0x3ff) : rng());
    }
    w.m.scales = w.scales.data();
  }
  w.m.data = w.data.data();
  return w;
}

// All rows of x through the kernels, at most `block` rows a call; again: by ranges of groups.
std::vector<float> product(const Kernels& kernels, const Matrix& w, const std::vector<float>& x, int64_t rows,
                           int64_t block, bool again = false) {
  std::vector<float> out(static_cast<size_t>(rows * w.n));
  std::vector<QuantGroup> panel(static_cast<size_t>(w.groups * kPanelRows));
  std::vector<CodeLine> codes(static_cast<size_t>((w.groups + 1) * kMostCodeRows));
  const TileRange range{0, 0, w.tiles, w.n};
  for (int64_t r = 0; r < rows; r += block) {
    const int64_t count = rows - r < block ? rows - r : block;
    const float* from = x.data() + r * w.k;
    for (int64_t i = 0; i < count; ++i) {
      const float* row = from + i * w.k;
      if (!info(w.format).row_scales()) {
        kernels.quantize(row, w.k, panel.data() + i, count);
      } else {
        kernels.quantize_row(row, w.k, w.input_scale, codes.data() + i, count * w.halves());
      }
    }
    const Activations activations{.panel = panel.data(), .codes = codes.data(), .x = from, .x_stride = w.k};
    multiply(kernels, w, range, activations, count, out.data() + r * w.n, w.n, 0.5f, again);
  }
  return out;
}

bool same(const std::vector<float>& a, const std::vector<float>& b) {
  return std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace

int main(int count, char** words) {
  const bool quick = count > 1 && std::strcmp(words[1], "quick") == 0;
  if (count > 1 && !quick) {
    std::fprintf(stderr, "usage: geminate_selftest [quick]\n");
    return 2;
  }
  std::mt19937 rng(1);
  std::normal_distribution<float> normal;
  int failures = 0, checks = 0;
  const int64_t sizes[][2] = {{1, 1}, {16, 32}, {17, 33}, {40, 31}, {63, 100}, {96, 257}, {24, 1600}};
  for (const FormatInfo& row : kFormats) {
    const int tries = row.row_scales() ? 4 : 1;  // with and without scales of activations
    for (int i = 0; i < tries * static_cast<int>(std::size(sizes)); ++i) {
      const auto [n, k] = sizes[static_cast<size_t>(i) % std::size(sizes)];
      Weights w = random_weights(row.format, n, k, rng);
      const int combination = i / static_cast<int>(std::size(sizes));
      if (combination % 2 == 1) w.m.input_scale = 0.011f;  // some activations exceed 127 steps
      if (combination / 2 == 1) w.m.output_scale = 0.003f;
      for (int64_t rows = 1; rows <= 33; ++rows) {
        if (quick && rows != 5 && rows != 7 && rows != 12 && rows != 14) continue;  // calls of 1 to 8 rows
        std::vector<float> x(static_cast<size_t>(rows * k));
        for (float& v : x) v = normal(rng);
        const std::vector<float> want = product(*find_kernels("scalar"), w.m, x, rows, 1);
        for (const std::string& isa : supported_isas()) {
          for (const int64_t block : {int64_t{1}, int64_t{3}, int64_t{kPanelRows}}) {
            ++checks;
            if (!same(product(*find_kernels(isa), w.m, x, rows, block, block == 3), want)) {
              ++failures;
              std::printf("differs: %s %s n %lld k %lld rows %lld block %lld\n", isa.c_str(), row.name,
                          static_cast<long long>(n), static_cast<long long>(k), static_cast<long long>(rows),
                          static_cast<long long>(block));
            }
          }
        }
      }
    }
  }
  failures += attention_failures(&checks);
  std::printf("selftest: %d results compared bit for bit, %d differ\n", checks, failures);
  return failures == 0 ? 0 : 1;
}
