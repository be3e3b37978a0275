"""What Ollama's clients send that has no effect here, values that mean "off", and what is refused with a way out."""

from __future__ import annotations

from geminate.server.http.tolerance import Body, Hint, Level, Off, Rule

HINT = Hint()
_NO_IMAGES = Off(([],), instead="this server accepts text only; images are not supported")
_OPTIONS = Level(
    {
        **dict.fromkeys(
            ["num_ctx", "num_keep", "num_batch", "num_gpu", "main_gpu", "num_thread", "numa", "low_vram", "f16_kv",
             "logits_all", "vocab_only", "embedding_only", "use_mmap", "use_mlock", "mirostat_tau", "mirostat_eta",
             "penalize_newline", "draft_num_predict"],
            HINT,
        ),
        "repeat_last_n": Hint(lambda value, body: value != 0),
        "typical_p": Off((1, 0), instead="use top_p or min_p"),
        "tfs_z": Off((1,), instead="use top_p or min_p"),
        "mirostat": Off((0,), instead="use temperature, top_p or min_p"),
    }
)  # fmt: skip
_RULES: dict[str, Rule] = {**dict.fromkeys(["keep_alive", "truncate", "shift"], HINT), "images": _NO_IMAGES}
_CALL = Level(below={"function": Level(dict.fromkeys(["index", "description"], HINT))})
_RESULT = Level({"images": _NO_IMAGES})
_SAID = Level({"images": _NO_IMAGES, "name": HINT}, {"tool_calls": _CALL})


def _message(message: Body) -> Level:
    return _RESULT if message.get("role") == "tool" else _SAID


CHAT = Level(_RULES, {"options": _OPTIONS, "messages": Level(choose=_message)})
GENERATE = Level(
    {
        **_RULES,
        "suffix": Off(("",), instead="a prompt can only be continued at its end"),
        "template": Off(("",), instead="the model's own template is used; raw: true sends the prompt as it is"),
        "context": Off(([],), instead="send the conversation to /api/chat"),
    },
    {"options": _OPTIONS},
)
SHOW = Level({"verbose": HINT})
