// The kernels of one instruction set. Included once, inside its namespace, after what isa/isa.h lists.
// No standard-library template may be used here: the linker could keep this file's copy of it, with
// instructions that another machine lacks.
// In this order: each builds on those before.
#include "isa/isa.h"
#include "kernels/math_impl.h"
#include "kernels/block_tiles_impl.h"
#include "kernels/linear_impl.h"
#include "kernels/row_formats_impl.h"
#include "kernels/block_rows_impl.h"
#include "kernels/rowwise_impl.h"
#include "kernels/hadamard_impl.h"
#include "kernels/attention_impl.h"
#include "kernels/attention_half_impl.h"
#include "kernels/attention_int8_impl.h"
#include "kernels/attention_table_impl.h"
#include "kernels/probe_impl.h"

static constexpr Kernels kTable = {
    .name = kIsaName,
    .quantize = quantize,
    .linear_quantized = linear_quantized,
    .linear_bf16 = linear_bf16,
    .quantize_row = quantize_row,
    .linear_rows = linear_rows,
    .embed = embed,
    .lookup = lookup,
    .rms_norm = rms_norm,
    .add_scaled = add_scaled,
    .gelu_mul = gelu_mul,
    .rope = rope,
    .store_kv = store_kv,
    .softcap = softcap,
    .attention = attention,
    .join_records = join_records,
    .finish_record = finish_record,
    .softmax = softmax,
    .softmax_at = softmax_at,
    .add_weighted = add_weighted,
    .read_bytes = read_bytes,
    .multiply_bytes = multiply_bytes,
};
