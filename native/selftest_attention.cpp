// Attention of the self-test: what every instruction set stores and reads, in both formats, however tasks are
// cut.
#include "selftest_attention.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "contract.h"
#include "isa/cpu.h"

namespace geminate {
namespace {

constexpr int64_t kRows = 192;
constexpr int kHeads = 13, kCount = 8;

// A ring of one KV head with its memory.
struct Ring {
  std::vector<uint8_t> keys, values;
  std::vector<float> key_scales, value_scales;
  bool codes;

  Ring(int head_dim, bool int8)
      : keys(static_cast<size_t>(2 * kRows * round_up(head_dim, 16))),
        values(keys.size()),
        key_scales(kRows),
        value_scales(kRows),
        codes(int8) {}
  KvSlot slot() {
    return {keys.data(), values.data(), kRows, codes ? key_scales.data() : nullptr,
            codes ? value_scales.data() : nullptr};
  }
  bool operator==(const Ring& other) const {
    return keys == other.keys && values == other.values && key_scales == other.key_scales &&
           value_scales == other.value_scales;
  }
};

Ring filled_ring(const Kernels& kernels, int head_dim, bool int8) {
  std::mt19937 rng(2);
  std::normal_distribution<float> normal;
  Ring ring(head_dim, int8);
  std::vector<float> key(static_cast<size_t>(head_dim)), value(key.size());
  for (int64_t row = 0; row < kRows; ++row) {
    for (float& x : key) x = normal(rng);
    for (float& x : value) x = normal(rng);
    kernels.store_kv(key.data(), value.data(), ring.slot(), 0, row, head_dim);
  }
  return ring;
}

// Outputs [kCount, kHeads, head_dim] of rows at positions 140 .. 147 with a window of 100, in tasks of `rows`
// rows and `heads` heads.
std::vector<float> outputs(const Kernels& kernels, Ring& ring, const std::vector<float>& q, int head_dim,
                           int rows, int heads) {
  std::vector<float> out(static_cast<size_t>(kCount * kHeads * head_dim));
  for (int row = 0; row < kCount; row += rows) {
    for (int head = 0; head < kHeads; head += heads) {
      const int count = std::min(rows, kCount - row), some = std::min(heads, kHeads - head);
      const int64_t record = record_floats(head_dim), from = (row * kHeads + head) * head_dim;
      std::vector<float> memory(static_cast<size_t>(count * some * record + attention_scratch(count * some)) +
                                16);
      float* aligned = memory.data();
      while (reinterpret_cast<uintptr_t>(aligned) % 64 != 0) ++aligned;
      AttentionTask task{
          .q = q.data() + from,
          .q_stride = kHeads * head_dim,
          .slot = ring.slot(),
          .kv_head = 0,
          .begin = 0,
          .end = kPart,
          .first = 41 + row,
          .last = 140 + row,
          .count = count,
          .heads = some,
          .head_dim = head_dim,
          .records = aligned,
          .record_stride = some * record,
          .scratch = aligned + count * some * record,
      };
      kernels.attention(task);
      for (int i = 0; i < count * some; ++i) {
        float* to = out.data() + from + (i / some * kHeads + i % some) * head_dim;
        kernels.finish_record(aligned + i * record, to, head_dim, ring.codes);
      }
    }
  }
  return out;
}

bool same(const std::vector<float>& a, const std::vector<float>& b) {
  return std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace

int attention_failures(int* checks) {
  int failures = 0;
  const auto expect = [&](bool ok, const std::string& isa, const char* what, int head_dim, bool int8) {
    ++*checks;
    if (ok) return;
    ++failures;
    std::printf("differs: %s %s, head_dim %d, %s\n", isa.c_str(), what, head_dim, int8 ? "int8" : "float16");
  };
  std::mt19937 rng(3);
  std::normal_distribution<float> normal;
  for (const int head_dim : {4, 20, 35, 64, 80, 96, 256, 512}) {
    std::vector<float> q(static_cast<size_t>(kCount * kHeads * head_dim));
    for (float& x : q) x = 0.3f * normal(rng);
    for (const bool int8 : {false, true}) {
      Ring ring = filled_ring(*find_kernels("scalar"), head_dim, int8);
      const std::vector<float> want = outputs(*find_kernels("scalar"), ring, q, head_dim, 1, 1);
      for (const std::string& isa : supported_isas()) {
        const Kernels& kernels = *find_kernels(isa);
        expect(filled_ring(kernels, head_dim, int8) == ring, isa, "stores", head_dim, int8);
        for (const auto& [rows, heads] : {std::pair{1, 13}, {8, 13}, {3, 5}, {8, 1}, {2, 4}}) {
          expect(same(outputs(kernels, ring, q, head_dim, rows, heads), want), isa, "reads", head_dim, int8);
        }
      }
    }
  }
  return failures;
}

}  // namespace geminate
