"""Regular expressions over module names that a configuration brings, admitted only where matching cannot take long."""

from __future__ import annotations

import re

from geminate.errors import ConfigError, shown

MAX_PATTERN = 200  # characters
MAX_QUANTIFIERS = 3  # of one pattern: a name of 100 characters is then matched in some milliseconds at worst


def compiled(pattern: object, where: str) -> re.Pattern[str]:
    """A pattern of a configuration.

    Quantified groups and back references, which can take exponential time, are refused; published patterns have none.

    Args:
        where: the field that holds it, for errors.

    Raises:
        ConfigError: it is no pattern, or one that is not admitted.
    """
    if not isinstance(pattern, str) or not 0 < len(pattern) <= MAX_PATTERN:
        raise ConfigError(f"{where} has {shown(pattern)} as a pattern of module names; it must be a string of at most "
                          f"{MAX_PATTERN} characters")  # fmt: skip
    plain = re.sub(r"\\[^0-9]", "a", pattern)  # an escaped character stands for one character
    plain = re.sub(r"\[\^?\]?[^\]]*\]", "a", plain)
    plain = re.sub(r"\(\?(?:[:=!]|<[=!])", "(", plain)  # groups without a name and looks around
    quantified = len(re.findall(r"[*+?{]", plain)) > MAX_QUANTIFIERS or re.search(r"\)[*+?{]", plain)
    if quantified or "\\" in plain or "(?" in plain:
        raise ConfigError(
            f"{where} has the pattern {shown(pattern)}, which is too complex: at most {MAX_QUANTIFIERS} quantifiers, "
            "none behind a group, and no back references are read"
        )
    try:
        return re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ConfigError(f"{where} has the pattern {shown(pattern)}, which is invalid: {error}") from None
