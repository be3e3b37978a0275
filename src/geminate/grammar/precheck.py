"""What is wrong with a grammar whatever the model: found without one, so before a model is loaded."""

from __future__ import annotations

from geminate.errors import ParameterError
from geminate.grammar.compiler import LIMITS, need_library
from geminate.grammar.matching import Library, UnusableGrammarError
from geminate.grammar.source import QUOTED, text_grammar, written
from geminate.grammar.special_texts import SpecialTexts
from geminate.grammar.specs import LABELS, Lark, TextSpec


def check_spec(spec: TextSpec) -> None:
    """Compile a grammar for a vocabulary of bytes; what names tokens is left to the model's own.

    Raises:
        ParameterError: a grammar that no model could follow. GeminateError: `llguidance` is not installed.
    """
    need_library()
    label = LABELS[type(spec)]
    source = written({"grammars": [text_grammar(spec, SpecialTexts(None))]}, label)
    if isinstance(spec, Lark) and "<" in QUOTED.sub("", spec.grammar):
        return
    try:
        Library("byte", vocab_size=None, eos_ids=None, limits=LIMITS).compile(source)
    except UnusableGrammarError as error:
        raise ParameterError(f"{label} cannot be used: {error}") from error
