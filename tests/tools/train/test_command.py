"""``geminate train drafter`` as a user runs it: a whole small run, resumption, verdicts, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from geminate import LLM
from geminate.families.registry import open_model
from geminate.loading.pairing import made_survival, pairing
from support.adapters import make_adapter
from support.cli import geminate, refused

SMALL = ("--updates", "2", "--max-length", "48", "--new-tokens", "14", "--batch-tokens", "256", "--threads", "1",
         "--evaluate-every", "1", "-t", "0")  # fmt: skip


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    lines = [json.dumps({"prompt": f"Tell me about number {i}.", "category": "ab"[i % 2]}) for i in range(24)]
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_from_scratch_beats_nothing_and_is_found_again(prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "new"
    run = ("train", "drafter", "--data", str(prompts), "--out", str(out), "--drafter", "none", "--layers", "2",
           "--hidden", "64", *SMALL)  # fmt: skip
    done = geminate(*run, "--json")
    result = json.loads(done.stdout.splitlines()[-1])
    # Two updates may or may not beat plain decoding beyond doubt: the exit code, the verdict and the place agree.
    assert done.returncode == (0 if result["better"] else 3), done.stderr
    where = Path(result["directory"])
    assert where == (out if result["better"] else tmp_path / "new.training" / "not-better")
    assert result["updates"] == 2 and result["comparisons"][0]["old"] == 1.0 and len(result["history"]) == 3
    assert {c["category"] for c in result["comparisons"]} == {"all", "a", "b"}
    card = (where / "README.md").read_text()
    assert "geminate train drafter" not in done.stderr and "--hidden 64" in card and "Cluster recall" in card
    assert LLM(drafter=where).pair.drafter is not None
    again = geminate(*run, "--json")
    assert json.loads(again.stdout.splitlines()[-1])["history"] == result["history"], "nothing is trained twice"
    assert "going on from update 2 of 2" in again.stderr
    refused(*run, "--seed", "9", says="other settings (loop)")


def test_a_drafter_for_a_target_with_an_adapter(prompts: Path, tmp_path: Path) -> None:
    embedded = Path(open_model.__code__.co_filename).parents[1] / "assets" / "embedded" / "target"
    adapter = make_adapter(embedded, tmp_path / "lora", rank=2, modules=("up_proj", "o_proj"))
    out = tmp_path / "new"
    done = geminate(
        "train", "drafter", "--adapter", f"{adapter}=0.5", "--data", str(prompts), "--out", str(out), *SMALL
    )
    assert done.returncode in (0, 3) and "with weight 0.5" in done.stderr, done.stderr
    where = out if done.returncode == 0 else tmp_path / "new.training" / "not-better"
    llm = LLM(adapter=f"{adapter}=0.5", drafter=where)
    found = pairing(llm.pair)
    assert found is not None and found.matched, "it was trained for the merged weights"
    assert (other := pairing(LLM(drafter=where).pair)) is not None and other.matched is False
    assert made_survival(llm.pair) is not None
    curves = (tmp_path / "new.training" / "curves.csv").read_text().splitlines()
    assert curves[0].startswith("update,seconds,tokens,loss") and len(curves) == 1 + 2 + 3  # updates and measurements


def test_not_better_exits_with_three_and_keeps_the_old_one(prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "new"
    done = geminate("train", "drafter", "--data", str(prompts), "--out", str(out), *SMALL, "--learning-rate", "1e-9")
    assert done.returncode == 3, done.stderr
    assert not out.exists() and "NOT better" in done.stdout
    assert "update 0: held-out tokens per round" in done.stderr


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (
            (
                "--updates",
                "0",
            ),
            "--updates must be",
        ),
        (
            (
                "--hours",
                "nan",
            ),
            "--hours must be",
        ),
        (
            (
                "--loss",
                "mse",
            ),
            "--loss must",
        ),
        (
            (
                "--learning-rate",
                "7",
            ),
            "--learning-rate must be",
        ),
        (
            (
                "--max-length",
                "9999",
            ),
            "more than --batch-tokens",
        ),
        (
            (
                "--hidden",
                "64",
            ),
            "--init scratch",
        ),
        (("--no-centroids",), "--init scratch"),
        (("--centroids", "64"), "--init scratch"),
        (("--init", "scratch", "--centroids", "64", "--no-centroids"), "exclude each other"),
        (("--init", "scratch", "--centroids", "100", "--new-tokens", "4"), "divide the vocabulary"),
        (("--init", "scratch", "--centroids", "8", "--new-tokens", "4"), "at least 16"),
        (
            (
                "--dtype",
                "int8",
            ),
            "--dtype must",
        ),
        (
            (
                "--device",
                "tpu",
            ),
            "--device must",
        ),
        (
            (
                "--init",
                "/nowhere",
            ),
            "/nowhere",
        ),
        (
            (
                "--weights",
                "int3",
            ),
            "weights must be one of",
        ),
        (
            (
                "--own-tokens",
                "2",
            ),
            "--own-tokens must",
        ),
        (
            (
                "--rope-position",
                "Q",
            ),
            "--rope-position must",
        ),
    ],
)
def test_refused(more: tuple[str, ...], says: str, prompts: Path, tmp_path: Path) -> None:
    refused("train", "drafter", "--data", str(prompts), "--out", str(tmp_path / "x"), *more, says=says)


def test_bad_data_is_refused(prompts: Path, tmp_path: Path, models: dict[str, Path]) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    refused("train", "drafter", "--data", str(empty), "--out", str(tmp_path / "x"), says="no usable examples")
    refused("train", "drafter", "--data", str(tmp_path / "no"), "--out", str(tmp_path / "x"), says="no such file")
    few = tmp_path / "few.txt"
    few.write_text("One text only, which is not enough.")
    refused("train", "drafter", "--data", str(few), "--out", str(tmp_path / "x"), says="too few")
    short = ("--data", str(prompts), "--out", str(tmp_path / "x"), "--updates", "1")
    refused("train", "drafter", *short, "--new-tokens", "2", says="the answers are too short")
    assert not (tmp_path / "x.training").exists(), "nothing is left that binds the next run"
    other = models["31B"].with_name("31B-assistant")
    refused(
        "train",
        "drafter",
        "--data",
        str(prompts),
        "--out",
        str(tmp_path / "x"),
        "--init",
        str(other),
        "--new-tokens",
        "4",
        says="does not fit the target",
    )
