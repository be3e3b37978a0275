"""The toy family's marks."""

from __future__ import annotations

from geminate.text.dialect import Dialect

DIALECT = Dialect(specials={"bos_token": "<s>", "eos_token": "</s>"}, turn_ends=("</turn>",))
