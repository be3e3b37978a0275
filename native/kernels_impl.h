// The kernels of one ISA. Included once, inside the ISA's own namespace, after it has defined:
//   F (16 float lanes), I (16 int32 lanes), Acc4 (group accumulator of int4 products), W8, W4;
//   kRowBlock, kKeyBlock, kValueVecs: how many rows, keys and value vectors fit its registers.
// No standard-library template may be used here: the linker could keep this file's copy of it, with
// instructions that another machine lacks.
// In this order: each builds on those before.
#include "math_impl.h"
#include "linear_impl.h"
#include "rowwise_impl.h"
#include "attention_impl.h"
#include "probe_impl.h"

static constexpr Kernels kTable = {
    kIsaName,  quantize,   linear_quantized, linear_bf16,  embed,      lookup,
    rms_norm,  add_scaled, gelu_mul,         rope,         to_half,    softcap,
    attention, softmax,    softmax_at,       add_weighted, read_bytes, multiply_bytes,
};
