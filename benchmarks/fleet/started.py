"""Servers and fleets as processes, for the benchmarks of this directory."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

import geminate

EMBEDDED = Path(geminate.__file__).parent / "assets" / "embedded" / "target"
LAYERS, WIDTH, INNER, HEADS, HEAD = 18, 640, 2048, 4, 256  # Gemma 3 270M's, but for the vocabulary


def free_port() -> int:
    """A port that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Started:
    """``geminate COMMAND`` on a free port; ready when it answers.

    Args:
        words: the command and its options but for the port.
    """

    def __init__(self, *words: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = tempfile.TemporaryFile()  # noqa: SIM115  (as long as the process)
        command = [sys.executable, "-c", "from geminate.cli.app import app; app()", *words, "--port", str(self.port)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, start_new_session=True
        )
        until = time.monotonic() + 180
        while not self.ready():
            if time.monotonic() > until or self.process.poll() is not None:
                self.stop()
                raise RuntimeError(f"{words} did not start: {self.said()[-3000:]}")
            time.sleep(0.2)

    def ready(self) -> bool:
        """Whether requests are answered."""
        try:
            with urllib.request.urlopen(f"{self.url}/health/ready", timeout=5):
                return True
        except OSError:
            return False

    def said(self) -> str:
        """Its log so far."""
        self.log.seek(0)
        return self.log.read().decode(errors="replace")

    def replicas(self) -> list[int]:
        """Process ids of the fleet's living replicas."""
        found = [int(pid) for pid in re.findall(r'"replica ready".*?"pid": (\d+)', self.said())]
        return [pid for pid in found if Path(f"/proc/{pid}").exists()]

    def metrics(self) -> dict[str, float]:
        """Samples by name, added up over labels."""
        made: dict[str, float] = {}
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=30) as answer:
            for line in answer.read().decode().splitlines():
                if not line.startswith("#"):
                    name, value = line.rsplit(" ", 1)
                    name = name.partition("{")[0]
                    made[name] = made.get(name, 0.0) + float(value)
        return made

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """A request without streaming."""
        data = json.dumps(body).encode()
        asked = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(asked, timeout=600) as answer:
            made: dict[str, Any] = json.load(answer)
            return made

    def stop(self) -> None:
        """End it and what it has started."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait(60)

    def __enter__(self) -> Started:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def random_model(directory: Path) -> Path:
    """A Gemma 3 of 270M's layers with random weights and the embedded pair's tokenizer; made once."""
    if (directory / "model.safetensors").exists():
        return directory
    directory.mkdir(parents=True, exist_ok=True)
    config = json.loads((EMBEDDED / "config.json").read_text())
    vocab = config["vocab_size"]
    config = {
        "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "vocab_size": vocab,
        "hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": 1, "head_dim": HEAD, "query_pre_attn_scalar": HEAD, "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-6, "rope_theta": 1e6, "rope_local_base_freq": 1e4, "sliding_window": 512,
        "sliding_window_pattern": 6, "bos_token_id": config["bos_token_id"], "eos_token_id": config["eos_token_id"],
        "pad_token_id": 0, "tie_word_embeddings": True, "hidden_activation": "gelu_pytorch_tanh",
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copy(EMBEDDED / name, directory / name)
    rng = np.random.default_rng(0)

    def matrix(rows: int, columns: int) -> np.ndarray[Any, Any]:
        return (rng.standard_normal((rows, columns), dtype=np.float32) / np.sqrt(columns)).astype(np.float16)

    tensors = {"model.embed_tokens.weight": matrix(vocab, WIDTH), "model.norm.weight": np.zeros(WIDTH, np.float16)}
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        tensors |= {
            f"{at}self_attn.q_proj.weight": matrix(HEADS * HEAD, WIDTH),
            f"{at}self_attn.k_proj.weight": matrix(HEAD, WIDTH),
            f"{at}self_attn.v_proj.weight": matrix(HEAD, WIDTH),
            f"{at}self_attn.o_proj.weight": matrix(WIDTH, HEADS * HEAD),
            f"{at}mlp.gate_proj.weight": matrix(INNER, WIDTH),
            f"{at}mlp.up_proj.weight": matrix(INNER, WIDTH),
            f"{at}mlp.down_proj.weight": matrix(WIDTH, INNER),
        }
        for norm in ("input", "post_attention", "pre_feedforward", "post_feedforward"):
            tensors[f"{at}{norm}_layernorm.weight"] = np.zeros(WIDTH, np.float16)
        for norm in ("q", "k"):
            tensors[f"{at}self_attn.{norm}_norm.weight"] = np.zeros(HEAD, np.float16)
    save_file(tensors, directory / "model.safetensors")
    return directory
