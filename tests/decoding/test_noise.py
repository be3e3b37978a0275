"""The noise: fixed for ever, uniform, and without relation between neighbours."""

from __future__ import annotations

import numpy as np
import pytest

from geminate.decoding import noise as module
from geminate.decoding.noise import gumbel, stream_key, uniform
from support.gtest import Family

FAMILY = Family(alpha=1e-6, planned=16)

# (seed, choice, position) -> key, and uniforms of the ids 0, 1 and 262143. A change here changes every
# user's seeded text, and must be made in the native code as well.
GOLDEN = {
    (0, 0, 0): (0x238275BC38FCBE91, [
        "0x1.0983a45556404p-3", "0x1.98f1f72f39cb0p-5", "0x1.f9ea12d92e03bp-1"
    ]),
    (1, 0, 0): (0xB18A02F46D8D86C3, [
        "0x1.c5032bbbb3dc9p-1", "0x1.9cd7e8ce68bd2p-2", "0x1.e3f9b61c78ea3p-1"
    ]),
    (0, 1, 0): (0x44E5B98100C67FB0, [
        "0x1.a3804e0d0f309p-1", "0x1.035ae47503f7ap-2", "0x1.8ffa908c18996p-2"
    ]),
    (0, 0, 1): (0x2F32A78496C67C60, [
        "0x1.b3ddefe0e7a6fp-1", "0x1.7e5ef085b7be4p-3", "0x1.cf94ae04f27a4p-3"
    ]),
    (7, 2, 1234): (0x8A0C14F08A018BEA, [
        "0x1.eddd69c90c362p-2", "0x1.a7545b291f75ep-2", "0x1.fa9866a418e79p-1"
    ]),
    (2**63 - 1, 15, 262143): (0x120A49CF704A872, [
        "0x1.00cf2ca39e053p-1", "0x1.e3eaee885dff3p-1", "0x1.c1dd5de848fafp-1"
    ]),
}  # fmt: skip


@pytest.mark.parametrize("where", GOLDEN)
def test_golden_values(where: tuple[int, int, int]) -> None:
    key, values = GOLDEN[where]
    assert stream_key(*where) == key
    assert [u.hex() for u in uniform(key, np.array([0, 1, 262143]))] == values
    expected = -np.log(-np.log([float.fromhex(v) for v in values]))
    np.testing.assert_allclose(gumbel(*where, np.array([0, 1, 262143])), expected, rtol=1e-14)


def test_the_outermost_hashes_give_finite_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """53 bits would round the centre of the last cell to 1, whose noise is infinite and wins any draw."""
    for cell in (0, 2**52 - 1):
        u = (np.float64(cell) + 0.5) * 2.0**-52
        assert 0 < u < 1
        monkeypatch.setattr(module, "uniform", lambda *_, u=u: np.array([u]))
        (made,) = gumbel(0, 0, 0, np.array([0]))
        assert -3.61 < made < 36.75


def test_value_depends_on_the_id_alone_not_on_its_place() -> None:
    ids = np.arange(5000)
    shuffled = np.random.default_rng(0).permutation(5000)
    whole = gumbel(3, 0, 17, ids)
    assert np.array_equal(gumbel(3, 0, 17, shuffled), whole[shuffled])
    for n in (1, 2, 3, 5, 8, 13, 64):
        assert np.array_equal(gumbel(3, 0, 17, ids[40 : 40 + n].astype(np.int32)), whole[40 : 40 + n])


def test_range_is_open() -> None:
    u = uniform(stream_key(1, 2, 3), np.arange(1_000_000))
    assert u.min() > 0 and u.max() < 1
    assert np.isfinite(gumbel(1, 2, 3, np.arange(1_000_000))).all()


def bins(u: np.ndarray, n: int) -> np.ndarray:
    return np.minimum((u * n).astype(int), n - 1)


def along(axis: str, n: int) -> np.ndarray:
    """float64 [n]: uniforms along one counter, the others fixed."""
    if axis == "id":
        return uniform(stream_key(5, 0, 9), np.arange(n))
    where = {
        "seed": lambda i: (i, 0, 9),
        "choice": lambda i: (5, i, 9),
        "position": lambda i: (5, 0, i),
    }[axis]
    return np.array([uniform(stream_key(*where(i)), np.array([77]))[0] for i in range(n)])


@pytest.mark.parametrize("axis", ["id", "seed", "choice", "position"])
def test_uniform_along_every_counter(axis: str) -> None:
    counts = np.bincount(bins(along(axis, 20_000), 64), minlength=64)
    assert FAMILY.accepts(f"uniform {axis}", counts.tolist(), [1 / 64] * 64)


@pytest.mark.parametrize("axis", ["id", "seed", "choice", "position"])
def test_neighbours_are_independent(axis: str) -> None:
    cell = bins(along(axis, 20_000), 12)
    pairs = np.bincount(cell[0::2] * 12 + cell[1::2], minlength=144)
    assert FAMILY.accepts(f"pairs {axis}", pairs.tolist(), [1 / 144] * 144)


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("swapped seed and position", (3, 0, 8), (8, 0, 3)),
        ("swapped choice and position", (5, 2, 6), (5, 6, 2)),
        ("next position", (5, 0, 100), (5, 0, 101)),
        ("next seed", (5, 0, 100), (6, 0, 100)),
        ("next choice", (5, 0, 100), (5, 1, 100)),
        ("far seed", (5, 0, 100), (5 + 2**62, 0, 100)),
    ],
)
def test_streams_are_independent(name: str, one: tuple[int, ...], other: tuple[int, ...]) -> None:
    ids = np.arange(20_000)
    a, b = (bins(uniform(stream_key(*where), ids), 12) for where in (one, other))
    counts = np.bincount(a * 12 + b, minlength=144)
    assert FAMILY.accepts(name, counts.tolist(), [1 / 144] * 144)


def test_keys_do_not_collide() -> None:
    keys = {stream_key(s, c, p) for s in range(40) for c in range(5) for p in range(300)}
    assert len(keys) == 40 * 5 * 300


def test_every_bit_of_every_counter_matters() -> None:
    """Flipping one input bit flips about half of the key's bits."""
    for argument, width in ((0, 63), (1, 16), (2, 20)):
        for bit in range(width):
            flipped = 0
            for i in range(40):
                where = [i * 7919, i % 3, i * 31]
                key = stream_key(*where)
                where[argument] ^= 1 << bit
                flipped += (key ^ stream_key(*where)).bit_count()
            assert 0.4 < flipped / 40 / 64 < 0.6
