// The numeric contract, first of all:
//
//   Output row i depends on input row i alone, bit for bit.
//
// Whatever the number of rows, threads or sequences in the pass, the order of every reduction is fixed by
// the reduction's length:
//   - int8/int4 products: activations are quantized per row and group of 32 (scale = amax / 127, round to
//     nearest even); the 32 products of a group add exactly in int32; groups join one float chain in
//     ascending order, acc = fma(float(isum), weight_scale * activation_scale, acc).
//   - products of the block formats (q4_k, q5_k, q6_k, q5_0, q5_1, iq4_nl): the same chain, with weight_scale
//   =
//     d * sc, exact in float32, and in q6_k two sums of 16 products each, one after the other. A minimum
//     weight = d * sc * q - dmin * m joins behind its group's products:
//     acc = fma(dmin * m, -(activation_scale * float(sum of the group's codes)), acc).
//   - products of the row formats (q2r, q4r, q8r): activations are int8 codes of a fixed scale,
//     round(x / scale) to nearest even, and a product is one exact int32 sum over the row, then one float
//     multiplication by row scale * activation scale; outputs may be rounded to int8 in the same way. Where
//     the matrix has no activation scale, codes have 16 bits (amax / 32512 of the row) as high and low half,
//     whose sums join in one fma.
//   - bf16 products: two float chains over even and odd k, ascending, merged once.
//   - threads split output columns, rows or heads, never a reduction.
//   - norms and softmax sums: 16 lanes by absolute index, tails padded with zeros, one reduction tree.
//   - attention walks keys in tiles of 64 absolute positions, ascending; a score is one float chain over the
//     head's dimensions, ascending (or one exact integer sum, see below); one exp for body and tail. Layers
//     without a window are cut into parts of 2,048 absolute positions; each has its own maximum and sum, and
//     parts join in ascending order, whether one thread walks them in turn or several take them apart.
//   - int8 keys and values: key, query and value of a head go through a Hadamard transform (stages of
//     distance 1, 2, 4, ..), then one scale for each token and head (amax / 127, round to nearest even).
//     Scores are exact integer sums; probabilities times value scales are quantized for each query and tile
//     of 64 keys (max / 255), their integer sums join one float chain, tiles ascending.
//   - experts add up in ascending expert order.
//   - -ffp-contract=off; a fused multiply-add happens only where the code says fma.
// All instruction sets run the same 16-lane program with IEEE operations, so their bits agree too.
//
// This header is plain data and signatures: per-ISA files include it, so nothing here may emit code.
#pragma once

#include <cstdint>

#include "kernels/formats.h"

namespace geminate {

// Counts up whenever a release changes bits; 2: attention over tiles of keys side by side, in parts.
constexpr int kArithmetic = 2;

constexpr int kPanelRows = 8;      // activation rows a kernel call multiplies at once
constexpr int kKeyTile = 64;       // keys of an attention tile
constexpr int kKeyLanes = 16;      // keys that lie side by side
constexpr int kPart = 2048;        // positions of a part of a long context, whole tiles
constexpr int kAttentionRows = 8;  // rows that share one walk over the keys
constexpr int kMaxHeadDim = 1024;
constexpr int kProbeDots = 64;  // 64-byte products of a round of multiply_bytes

// One group of quantized activations of one row; a cache line, so threads that quantize different
// rows of a panel never write the same line.
struct alignas(64) QuantGroup {
  int8_t code[kGroup];
  float scale;
  int32_t start8;  // -128 * sum(code): cancels the +128 of unsigned int8 weights
  int32_t start4;  // -8 * sum(code)
  float minus;     // -(scale * sum(code)): what a minimum is multiplied by
  // -32 * sum of the first and of the last 16 codes: cancels what is added to the codes of q6_k
  int32_t start6[2];
  int32_t unused[2];
};

// int8 codes of 64 activations of one row; a cache line, for the same reason. Behind a row's last line stands
// another with a RowScale.
struct alignas(64) CodeLine {
  int8_t code[kRowColumns];
};
struct RowScale {
  int32_t sum;   // of the row's codes
  float scale;   // of a code
  int32_t size;  // of low halves: the sum of what they are without their signs
};
constexpr int kMostCodeRows = 2 * kPanelRows;  // of a panel, where a row has a high and a low half

// Packed weights; layouts as in geminate.backends.tiles.
struct Matrix {
  Format format;
  int64_t n, k;           // of one matrix of the stack
  int64_t tiles, groups;  // ceil(n / 16), ceil(k / columns of a cell)
  int64_t stack;
  const uint8_t* data;
  // Records of scales [stack, tiles, blocks, 16 * words], float16 numbers as [halves, 16] before bytes as
  // [small, 16]; null where the format has none.
  const uint16_t* scales;
  const float* row_scales = nullptr;  // [stack, tiles, 16]; null where the format has none
  // Of a row format: the step of its activations, 0 where it has none, and of its outputs, 0: not rounded.
  float input_scale = 0.0f, output_scale = 0.0f;
  // Rows of codes for each row of activations: a high and a low half, or one.
  int64_t halves() const { return input_scale > 0.0f ? 1 : 2; }
  // Of records of scales of a row.
  int64_t blocks() const { return (k + info(format).block - 1) / info(format).block; }
};

// A row-major table, read row by row.
struct RowTable {
  // bf16, int8 (signed codes), a row format (codes side by side, low bits first) or a block format (blocks as
  // GGUF files have them)
  Format format;
  int64_t rows, width;
  int64_t stride;  // of a row: values, in row and block formats bytes
  const void* data;
  const uint16_t* scales;             // int8: [rows, stride / 32]
  const float* row_scales = nullptr;  // row formats: [rows, blocks], each for width / blocks columns
  int64_t blocks = 1;
};

// For each row of a product, the largest of what has been computed; for passes that want no other outputs.
// Threads share it: it only tells what need not be computed.
struct Largest {
  float* seen;  // [rows]
  float cap;    // of the soft cap behind the product; 0: none
};

// A range of output tiles of matrix `which` of the stack.
struct TileRange {
  int64_t which, begin, end;
  int64_t valid;  // outputs that exist, counted from the first row of `begin`
};

// A range of the groups of a reduction. All but the first range continue the float chains that stand in the
// outputs; the last one scales them.
struct GroupRange {
  int64_t begin, end;
};

// A ring of keys and values of all KV heads; position p stands in row p % rows. One of two formats:
//   float16: keys [heads, rows / 16, head_dim, 16], values [heads, rows, head_dim].
//   int8: keys as unsigned codes, 128 added, [heads, rows / 16, key_width / 4, 16, 4]; values as signed codes
//   [heads, rows / 4, value_width, 4], zeros behind head_dim; a float32 scale for each row [heads, rows].
struct KvSlot {
  void* keys;
  void* values;
  int64_t rows;         // a multiple of 64
  float* key_scales;    // null: float16
  float* value_scales;  // likewise
};

static constexpr int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// What attention over some positions makes of a query: a record of floats.
//   [value_width(head_dim)] sum of exp(score - top) * value, [16] lanes of the sum of exp(score - top),
//   [16] top / ln 2 in every lane, -inf where no key was seen.
static constexpr int64_t value_width(int64_t head_dim) { return round_up(head_dim, 16); }
static constexpr int64_t record_floats(int64_t head_dim) { return value_width(head_dim) + 2 * 16; }

// Rows at consecutive positions of one sequence, and some of the query heads that share a KV head; together
// `count * heads` queries, row by row.
struct AttentionTask {
  const float* q;  // row i: [heads, head_dim] at q + i * q_stride
  int64_t q_stride;
  KvSlot slot;
  int64_t kv_head;
  int64_t begin, end;   // positions to walk, a whole number of tiles from 0 on
  int64_t first, last;  // of those, row i sees first + i .. last + i
  int count;            // rows, at most kAttentionRows
  int heads, head_dim;
  float* records;  // row i: [heads, record_floats(head_dim)] at records + i * record_stride
  int64_t record_stride;
  float* scratch;  // [attention_scratch(count * heads)], at a multiple of 64 bytes
};

// Bytes from a query to the next: constant for the address of a query in a block, and no multiple of what a
// cache has in a way.
constexpr int64_t kQueryBytes = 4 * kMaxHeadDim + 64;
// Floats of scratch for a task: queries, scores and codes of a tile, and four of bookkeeping.
static constexpr int64_t attention_scratch(int64_t queries) {
  return queries * (kQueryBytes / 4 + kKeyTile + kKeyTile / 4) + round_up(queries, 16) * 6;
}

struct Kernels {
  const char* name;

  // x [k] -> groups at out[g * stride], zero-padded to a multiple of 32.
  void (*quantize)(const float* x, int64_t k, QuantGroup* out, int64_t stride);
  // out[m * out_stride + i] for rows m < rows <= 8 of a panel [groups][rows].
  void (*linear_quantized)(const Matrix& w, const TileRange& range, const GroupRange& groups,
                           const QuantGroup* panel, int64_t rows, float* out, int64_t out_stride,
                           float scale);
  // The same over float rows x [rows <= 8, k].
  void (*linear_bf16)(const Matrix& w, const TileRange& range, const float* x, int64_t x_stride, int64_t rows,
                      float* out, int64_t out_stride, float scale);

  // x [k] -> codes, line g at out[g * stride], zero-padded to a multiple of 64, and a RowScale behind them.
  // scale 0: the row's own scale and 16 bits; low halves stand stride / 2 lines behind the high ones.
  void (*quantize_row)(const float* x, int64_t k, float scale, CodeLine* out, int64_t stride);
  // As linear_quantized, of a row format; panel [groups + 1][halves][rows]. With `largest` only outputs that
  // may be the largest of a row are exact, and all others smaller than that, too.
  void (*linear_rows)(const Matrix& w, const TileRange& range, const CodeLine* panel, int64_t rows,
                      float* out, int64_t out_stride, float scale, const Largest* largest);

  void (*embed)(const Matrix& w, int64_t row, float scale, float* out);
  // Columns column .. column + width - 1 of a row.
  void (*lookup)(const RowTable& table, int64_t row, int64_t column, int64_t width, float scale, float* out);
  // weight [width / groups] or null; out may equal x.
  void (*rms_norm)(const float* x, float* out, const float* weight, int64_t width, int64_t groups, float eps);
  void (*add_scaled)(const float* a, const float* b, float* out, int64_t n, float scale);
  void (*gelu_mul)(const float* gate, const float* up, float* out, int64_t n);
  // Each of `groups` heads of `dim` in place; cosine and sine [pairs].
  void (*rope)(float* x, int64_t groups, int64_t dim, const float* cosine, const float* sine, int64_t pairs);
  // One head's key and value [head_dim] into a row of the slot.
  void (*store_kv)(const float* key, const float* value, const KvSlot& slot, int64_t kv_head, int64_t row,
                   int head_dim);
  void (*softcap)(float* x, int64_t n, float cap);
  // Fills the records of the task's queries.
  void (*attention)(const AttentionTask& task);
  // Joins the record of later positions to the record of all before them.
  void (*join_records)(const float* later, float* all, int head_dim);
  // What a record's query reads from the cache, [head_dim]; turned: keys and values are int8.
  void (*finish_record)(const float* record, float* out, int head_dim, bool turned);
  // out = exp(x - max) / sum; out may equal x.
  void (*softmax)(const float* x, float* out, int64_t n);
  // exp(x[at] - max) / sum without writing the rest.
  float (*softmax_at)(const float* x, int64_t n, int64_t at);
  // out += weight * x, fused.
  void (*add_weighted)(const float* x, float weight, float* out, int64_t n);

  // For measuring the machine; see kernels/probe_impl.h.
  int32_t (*read_bytes)(const uint8_t* data, int64_t bytes);
  int32_t (*multiply_bytes)(int64_t rounds);
};

const Kernels* scalar_kernels();
#if defined(GEMINATE_X86)
const Kernels* avx2_kernels();
const Kernels* avxvnni_kernels();
const Kernels* avx512_kernels();
#endif
#if defined(GEMINATE_NEON)
const Kernels* neon_kernels();
const Kernels* neon_dotprod_kernels();
const Kernels* neon_i8mm_kernels();
#endif

}  // namespace geminate
