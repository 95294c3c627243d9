"""Random streams as functions of their keys."""

from itertools import product

import pytest
import torch

from l2o.checks import valid_seed
from l2o.seeds import Stream, generator, seed_of

SEEDS = (0, 1, 2, 1234, 2**31, 2**32 - 1)
KEYS = [  # every kind of key that the project uses
    *((seed, stream) for seed in SEEDS for stream in Stream if stream != Stream.TRAINING),
    *((seed, Stream.TRAINING, rank, episode) for seed, rank, episode in product(SEEDS, range(3), (0, 1, 2, 10_000))),
]


def draw(*key):
    return torch.randn(8, generator=generator(*key))


@pytest.mark.parametrize("key", KEYS[:4] + KEYS[-4:], ids=str)
def test_same_key_same_stream(key):
    first = draw(*key)
    torch.manual_seed(123)
    torch.randn(3)
    assert torch.equal(draw(*key), first)


def test_distinct_keys_distinct_streams():
    assert len({seed_of(*key) for key in KEYS}) == len(KEYS)
    assert len({tuple(draw(*key).tolist()) for key in KEYS}) == len(KEYS)


def test_the_order_of_a_key_matters():
    assert seed_of(1, 2, 3) != seed_of(3, 2, 1)


@pytest.mark.parametrize(("one", "other"), [((1,), (1, 0)), ((0, 0), (0, 0, 0, 0)), ((3, 1), (3, 1, 0))], ids=str)
def test_a_zero_at_the_end_makes_another_key(one, other):
    assert seed_of(*one) != seed_of(*other)


def test_seeds_are_well_mixed_63_bit_numbers():
    """Neighbouring keys give unrelated bits: each bit is set in half of the seeds."""
    seeds = torch.tensor([seed_of(7, Stream.TRAINING, 0, episode) for episode in range(2000)])
    assert (seeds >= 0).all()
    share = torch.stack([(seeds >> bit & 1).float().mean() for bit in range(63)])
    assert (share - 0.5).abs().max() < 4 * 0.5 / 2000**0.5


def test_streams_are_uncorrelated():
    rows = torch.stack([torch.randn(4000, generator=generator(0, stream)) for stream in Stream])
    off_diagonal = torch.corrcoef(rows) - torch.eye(len(Stream))
    assert off_diagonal.abs().max() < 4 / 4000**0.5


@pytest.mark.parametrize(
    ("key", "seed", "first"),
    [
        ((0, Stream.TRAINING), 5064105440874769477, 0.9115328960810304),
        ((0, Stream.VALIDATION), 7006255215521402662, 0.34002155316110505),
        ((0, Stream.TUNING), 8219478981067027944, 0.04722165191201888),
        ((0, Stream.EVALUATION), 7462104359593073225, 0.7470519661854825),
        ((0, Stream.SCOREBOARD), 5938374411900224067, 0.8368635346695896),
        ((0, Stream.FAMILIES), 942019666609215554, 0.1722873557415644),
        ((1234, Stream.EVALUATION), 6795560470831167820, None),
        ((0, Stream.TRAINING, 0, 0), 8181856093542410848, None),
        ((0, Stream.TRAINING, 1, 0), 3262543294770195554, None),
        ((0, Stream.TRAINING, 0, 1), 3500763596137190146, None),
    ],
    ids=str,
)
def test_every_purpose_has_the_numbers_that_it_has_always_had(key, seed, first):
    """Two purposes that change places, or a new one put before them, would silently give every run other problems."""
    assert seed_of(*key) == seed
    if first is not None:
        assert torch.rand(1, dtype=torch.float64, generator=generator(*key)).item() == first


def test_every_purpose_is_pinned():
    names = ["TRAINING", "VALIDATION", "TUNING", "EVALUATION", "SCOREBOARD", "FAMILIES"]
    assert [stream.name for stream in Stream] == names


def test_negative_keys_are_refused():
    with pytest.raises(ValueError, match="non-negative"):
        seed_of(-1, 0)


def test_the_generator_is_on_the_device_asked_for():
    assert generator(0, device="cpu").device.type == "cpu"


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_a_run_s_seed_may_be_any_32_bit_number(seed):
    assert valid_seed(seed) == seed


@pytest.mark.parametrize("seed", [-1, 2**32, 1.0, "1", None])
def test_other_seeds_are_refused(seed):
    with pytest.raises(ValueError, match=r"seed must be an integer from 0 to 2³² − 1, got"):
        valid_seed(seed)
