"""The loss and its hand-made gradients, candidates, the row-wise optimiser, the schedule."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from geminate.tools.train.loss import RoundLoss, candidates, ce_share
from geminate.tools.train.optimiser import BETAS, EPS, RowAdam, learning_rate
from geminate.tools.train.options import LOSSES


def plain_loss(normed, table, correction, at, p, weights, name):  # type: ignore[no-untyped-def]
    """The formula, all at once."""
    log_q = (normed @ table.T + correction).log_softmax(-1).gather(1, at)
    overlap = torch.minimum(p, log_q.exp()).sum(-1)
    share = ce_share(name, overlap.detach())
    return (weights * (share * -(p * log_q).sum(-1) + (1 - share) * (1 - overlap))).sum(), overlap


@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradients(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geminate.tools.train.loss.CHUNK", 3)
    g = torch.Generator().manual_seed(1)
    normed = torch.randn(8, 5, generator=g, requires_grad=True)
    table = torch.randn(11, 5, generator=g, requires_grad=True)
    correction, weights = torch.rand(11, generator=g), torch.rand(8, generator=g)
    at = torch.stack([torch.randperm(11, generator=g)[:4] for _ in range(8)])
    p = torch.rand(8, 4, generator=g).softmax(-1)
    value, overlap, best = RoundLoss.apply(normed, table, correction, at, p, weights, name)
    made = torch.autograd.grad(2.5 * value, (normed, table))
    want, want_overlap = plain_loss(normed, table, correction, at, p, weights, name)
    wanted = torch.autograd.grad(2.5 * want, (normed, table))
    torch.testing.assert_close(value, want)
    torch.testing.assert_close(overlap, want_overlap)
    assert torch.equal(best, (normed @ table.T).argmax(-1))
    for a, b in zip(made, wanted, strict=True):
        torch.testing.assert_close(a, b)


def test_overlap_is_one_minus_total_variation() -> None:
    logits = torch.log(torch.tensor([[0.6, 0.3, 0.1]]))
    p = torch.tensor([[0.2, 0.5, 0.3]])
    _, overlap, _ = RoundLoss.apply(logits, torch.eye(3), torch.zeros(3), torch.arange(3)[None], p, torch.ones(1), "tv")
    assert float(overlap) == pytest.approx(1 - 0.5 * (0.4 + 0.2 + 0.2))


def test_sampled_candidates_estimate_the_whole_sum() -> None:
    """The mean over draws of the corrected sum is the full sum of exp(logits)."""
    g = torch.Generator().manual_seed(0)
    vocab = 4000
    logits = torch.randn(vocab, generator=g)
    named = torch.tensor([3, 3, 999])
    sums = []
    for _ in range(200):
        c = candidates(named, vocab, 400, g)
        assert torch.equal(c.ids, torch.unique(c.ids)) and {3, 999} <= set(c.ids.tolist())
        sums.append(float((logits[c.ids] + c.correction).exp().sum()))
    assert sum(sums) / len(sums) == pytest.approx(float(logits.exp().sum()), rel=0.02)
    uncorrected = float(logits[c.ids].exp().sum())
    assert uncorrected < 0.2 * float(logits.exp().sum()), "the control: without the correction it is far off"


def test_small_vocabularies_are_scored_whole() -> None:
    c = candidates(torch.tensor([1, 2]), 100, 60, torch.Generator())
    assert len(c.ids) == 100 and not c.correction.any()


def test_row_adam_is_adam_where_rows_are_touched() -> None:
    g = torch.Generator().manual_seed(2)
    table = torch.randn(6, 3, generator=g)
    parameter = torch.nn.Parameter(table.clone())
    adam = torch.optim.Adam([parameter], lr=0.01, betas=BETAS, eps=EPS)
    rows, own = torch.tensor([0, 2, 3, 4, 5]), RowAdam(table)
    still = table[1].clone()
    for _ in range(5):
        grad = torch.randn(5, 3, generator=g)
        parameter.grad = torch.zeros(6, 3).index_copy(0, rows, grad)
        adam.step()
        own.step(0.01, rows, grad)
    torch.testing.assert_close(table[rows], parameter.data[rows])
    assert torch.equal(table[1], still)


def test_schedule_rises_then_falls() -> None:
    rates = [learning_rate(i, 100, 1.0) for i in range(100)]
    assert rates[0] == pytest.approx(0.2) and max(rates) == rates[4] == 1.0
    assert all(a >= b for a, b in pairwise(rates[5:])) and rates[-1] < 0.06
    assert math.isclose(learning_rate(0, 1, 3.0), 3.0)
