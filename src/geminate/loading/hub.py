"""Models from the hub, through huggingface-hub's own cache."""

from __future__ import annotations

import re
from pathlib import Path

from geminate.errors import ModelNotFoundError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
PATTERNS = ["*.json", "*.safetensors", "*.jinja", "tokenizer*"]


def from_hub(hub_id: str) -> Path:
    """The local directory of a hub id, fetched if need be; HF_HUB_OFFLINE is honoured.

    Raises:
        ModelNotFoundError: with the cause and the way out.
    """
    # Imported here: it takes 0.3 s and most starts never need it.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        found = Path(snapshot_download(hub_id, allow_patterns=PATTERNS))
    except LocalEntryNotFoundError:
        raise ModelNotFoundError(
            f"{hub_id} is not in the local hub cache and the hub cannot be reached (or HF_HUB_OFFLINE is set); "
            "download it where there is a connection, or name a local directory"
        ) from None
    except HfHubHTTPError as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelNotFoundError(f"the hub refused {hub_id}: {first}") from None
    except (OSError, ValueError) as error:
        raise ModelNotFoundError(f"cannot fetch {hub_id}: {error}") from None
    if not any(found.glob("*.safetensors")):
        raise ModelNotFoundError(
            f"{hub_id} has no safetensors weights; of a GGUF repository, download one file "
            f"(hf download {hub_id} --include '*Q4_0*' --local-dir .) and name the .gguf file"
        )
    return found
