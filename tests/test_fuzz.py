"""A thousand malformed inputs, generated from a seed: each is taken, or refused in one line that a user understands.

Configs, .npz files, pictures, checkpoints and exported folders, 200 of each. A refusal is a ValueError of one line, or
for a config the line that train.py prints; nothing may take long, and nothing may be left behind.
"""

import contextlib
import json
import random
import shutil
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.utils import setup_globals
from hydra.types import RunMode
from PIL import Image
from programs import ROOT

from l2o.data import from_npz, images
from l2o.deploy import export
from l2o.deploy.import_published import from_published
from l2o.optimizers import LSTM, LogAndSign
from l2o.runs import checkpoint_files
from l2o.runs.command_line.arguments import refuse_arguments
from l2o.runs.command_line.read_keys import refuse_unread
from l2o.runs.command_line.settings import refuse_settings
from l2o.runs.errors import one_line

SEED, COUNT = 2016, 200
SECONDS, WAIT = 5.0, 60.0
"""What a refusal may take at most: of the processor, and by the clock, as other processes may share the machine."""

ESCAPE = "\x1b"


@contextlib.contextmanager
def within_reason(what: str) -> Iterator[None]:
    work, start = time.process_time(), time.monotonic()
    yield
    assert time.process_time() - work < SECONDS and time.monotonic() - start < WAIT, what


def refused(call: Callable[[], Any], what: str) -> bool:
    """Whether a call refuses its input, in one line; it fails on every other kind of error."""
    with within_reason(what):
        try:
            call()
        except ValueError as error:
            message = str(error)
            assert message.strip() and "\n" not in message and ESCAPE not in message, f"{what}: {message!r}"
            assert one_line(error) is not None, f"{what}: train.py would show a traceback of {message!r}"
            return True
    return False


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Bytes that were cut, flipped, overwritten, swapped, doubled, emptied or replaced."""
    kind, place = rng.randrange(9), rng.randrange(max(1, len(data)))
    if kind == 0:
        return data[:place]
    if kind == 1:
        return data[place:]
    if kind == 2:
        flipped = bytearray(data)
        for _ in range(rng.choice([1, 3, 30])):
            flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
        return bytes(flipped)
    if kind == 3:
        return data[:place] + rng.randbytes(rng.randrange(1, 64)) + data[place + 32 :]
    if kind == 4:
        return data[place:] + data[:place]
    if kind == 5:
        return data + data
    if kind == 6:
        return rng.choice([b"", b"\0", b"version https://git-lfs.github.com/spec/v1\n", b"PK\x03\x04", b"\x80\x04N."])
    if kind == 7:
        return data[:place] + b"\0" * (len(data) - place)
    return rng.randbytes(rng.randrange(1, 2000))


# ---------------------------------------------------------------------------------------------------- .npz files


def an_array(rng: random.Random) -> np.ndarray:
    draw = np.random.default_rng(rng.randrange(2**32))
    shape = tuple(rng.choice([0, 1, 2, 6, 6, 6, 8]) for _ in range(rng.choice([0, 1, 1, 2, 3, 3, 4, 5])))
    return rng.choice(
        [
            lambda: draw.integers(-2, 300, shape),
            lambda: draw.integers(0, 2, shape).astype(bool),
            lambda: draw.standard_normal(shape).astype(rng.choice(["f2", "f4", ">f8", "c8"])),
            lambda: np.full(shape, np.nan),
            lambda: np.full(shape, np.inf, np.float32),
            lambda: draw.integers(0, 9, shape).astype(rng.choice(["u1", "i1", ">i4", "u8"])),
            lambda: np.full(shape, "text"),
            lambda: np.full(shape, 2**62),
            lambda: np.full(shape, np.datetime64("2016-06-14")),
            lambda: np.full(shape, None, dtype=object),
            lambda: np.zeros(shape, dtype=[("a", "i4"), ("b", "f4")]),
        ]
    )()


def an_npz(path: Path, rng: random.Random) -> None:
    x, y = np.zeros((6, 4, 4), np.uint8), np.arange(6) % 3
    arrays: dict[str, Any] = {"x_train": x, "y_train": y, "x_test": x, "y_test": y}
    if rng.random() < 0.6:
        for name in rng.sample(sorted(arrays), rng.choice([1, 1, 2, 4])):
            arrays[name] = an_array(rng)
        if rng.random() < 0.2:
            del arrays[rng.choice(sorted(arrays))]
        np.savez(path, **arrays)
        return
    stream = BytesIO()
    rng.choice([np.savez, np.savez_compressed])(stream, **arrays)
    path.write_bytes(damaged(stream.getvalue(), rng))


# ------------------------------------------------------------------------------------------------------ pictures


def a_picture(path: Path, rng: random.Random) -> None:
    mode = rng.choice(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16"])
    size = rng.choice([(1, 1), (1, 40), (40, 1), (24, 16)])
    if mode in ("I", "F", "I;16"):
        kind = {"I": np.int32, "F": np.float32, "I;16": np.uint16}[mode]
        values = np.random.default_rng(rng.randrange(2**32)).standard_normal(size[::-1]) * rng.choice([1, 300, 1e9])
        picture = Image.fromarray(np.clip(values, 0 if mode == "I;16" else -(2**31), 2**16 - 1).astype(kind))
    else:
        channels = len(Image.new(mode, (1, 1)).getbands())
        data = rng.randbytes((size[0] + 7) // 8 * size[1] if mode == "1" else size[0] * size[1] * channels)
        picture = Image.frombytes(mode, size, data)
    exif = Image.Exif()
    exif[0x0112] = rng.choice([0, 1, 3, 6, 8, 9, 65535])
    stream, formats = BytesIO(), ["PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM"]
    rng.shuffle(formats)
    for name in formats:  # the first that can hold such a picture
        with contextlib.suppress(OSError, ValueError, KeyError):
            picture.save(stream, name, exif=exif)
            break
    data = stream.getvalue()
    path.write_bytes(damaged(data, rng) if data and rng.random() < 0.7 else data)


# --------------------------------------------------------------------------------- checkpoints, exported folders


@cache
def a_rule() -> LSTM:
    torch.manual_seed(0)
    return LSTM(LogAndSign(10), hidden_size=2, num_layers=1)


def a_value(rng: random.Random, depth: int = 0) -> Any:
    """Something that JSON can hold."""
    plain = [None, True, -1, 0, 3, 2**70, 0.5, 1e300, float("nan"), "", "LSTM", "\x1b[31m", "žluť", "../..", [], {}]
    if depth > 2 or rng.random() < 0.7:
        return rng.choice(plain)
    if rng.random() < 0.5:
        return [a_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(["class", "float", "a", "lr", "rules"]): a_value(rng, depth + 1) for _ in range(3)}


def altered(tree: Any, rng: random.Random) -> Any:
    """A tree of which one value, somewhere, is another one, or is missing."""
    if not isinstance(tree, dict) or not tree or rng.random() < 0.15:
        return a_value(rng)
    name, tree = rng.choice(sorted(tree)), dict(tree)
    if rng.random() < 0.15:
        del tree[name]
    elif rng.random() < 0.1:
        tree["unheard_of"] = a_value(rng)
    else:
        tree[name] = altered(tree[name], rng)
    return tree


def weights_altered(weights: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    name, weights = rng.choice(sorted(weights)), dict(weights)
    kind = rng.randrange(6)
    if kind == 0:
        del weights[name]
    elif kind == 1:
        weights["unheard.of"] = torch.zeros(3)
    elif kind == 2:
        weights[name] = weights[name][..., :1].clone()
    elif kind == 3:
        weights[name] = weights[name].to(rng.choice([torch.int64, torch.bool, torch.complex64, torch.float16]))
    elif kind == 4:
        weights[name] = torch.full_like(weights[name], torch.nan)
    else:
        weights[name] = torch.zeros(0)
    return weights


def a_checkpoint(path: Path, rng: random.Random) -> None:
    rule = a_rule()
    phi = {name: value.clone() for name, value in rule.state_dict().items()}
    contents: Any = {"l2o": {"rule": json.dumps(export.describe(rule)), "best_phi": phi, "windows": 3}, "epoch": 1}
    if rng.random() < 0.3:
        contents["l2o"]["best_phi"] = weights_altered(phi, rng)
    elif rng.random() < 0.4:
        contents["l2o"]["rule"] = json.dumps(altered(json.loads(contents["l2o"]["rule"]), rng))
    elif rng.random() < 0.4:
        contents = altered(contents, rng)
    stream = BytesIO()
    torch.save(contents, stream, _use_new_zipfile_serialization=rng.random() < 0.9)
    path.write_bytes(damaged(stream.getvalue(), rng) if rng.random() < 0.5 else stream.getvalue())


def a_folder(folder: Path, rng: random.Random) -> None:
    export.save(a_rule(), folder, {"licence": "mit"})
    config, weights = folder / export.CONFIG, folder / export.WEIGHTS
    kind = rng.randrange(6)
    if kind == 0:
        config.write_text(json.dumps(altered(json.loads(config.read_text()), rng)))
    elif kind == 1:
        config.write_bytes(damaged(config.read_bytes(), rng))
    elif kind == 2:
        weights.write_bytes(damaged(weights.read_bytes(), rng))
    elif kind == 3:
        from safetensors.torch import load_file, save_file

        save_file(weights_altered(load_file(weights), rng), weights)
    elif kind == 4:
        rng.choice([config, weights]).unlink()
    else:
        path = rng.choice([config, weights])
        path.unlink()
        path.mkdir()


# ------------------------------------------------------------------------------------------------------- configs


WORDS = ["1", "-1", "0", "1e3", "nan", "inf", "null", "true", "abc", "[1,2]", "{a:1}", "", "???", "${x}", "${seed}"]
WORDS += ["~/x", "a=b", "žluť", "1,2", "range(1,3)", "'q'", '"q"', "a b", "(", "[", "99999999999999999999", "-0.0"]


@cache
def loader() -> ConfigLoaderImpl:
    setup_globals()
    paths: ConfigSearchPath = create_config_search_path(str(ROOT / "conf"))
    return ConfigLoaderImpl(paths)


@cache
def known_keys() -> list[str]:
    from l2o.runs.command_line.read_keys import keys_of

    cfg = loader().load_configuration("train", [], RunMode.RUN)
    return [*keys_of(cfg), "experiment", "dataset", "optimizee", "optimizer", "trainer", "hydra.run.dir", "x", "a.b.c"]


def some_words(rng: random.Random) -> list[str]:
    """One to three words of a command line, most of them wrong."""
    words = []
    for _ in range(rng.choice([1, 1, 2, 3])):
        key = rng.choice(known_keys())
        if rng.random() < 0.3:  # a slip of the finger
            place = rng.randrange(len(key))
            key = key[:place] + rng.choice(["", "x", ".", key[place] * 2, " "]) + key[place + 1 :]
        sign = rng.choice(["", "", "", "", "+", "++", "~"])
        equals = "" if sign == "~" and rng.random() < 0.7 else f"={rng.choice(WORDS)}"
        words.append(f"{sign}{key}{equals}")
    return words


def configured(words: list[str]) -> None:
    """What train.py does with a command line before it builds anything: compose it, then check it."""
    cfg = loader().load_configuration("train", words, RunMode.RUN)
    read = refuse_unread(cfg, loader(), ())
    refuse_settings(cfg, read)
    refuse_arguments(cfg, read)


def config_refused(words: list[str]) -> bool:
    with within_reason(str(words)):
        try:
            configured(words)
        except Exception as error:  # in_one_line answers all of them, or shows a traceback
            line = one_line(error)
            assert line and line.strip() and "\n" not in line and ESCAPE not in line, f"{words}: {error!r}"
            assert "hydra.cc" not in line and "LexerNoViable" not in line and "Traceback" not in line, line
            return True
    return False


# --------------------------------------------------------------------------------------------------------- tests


@pytest.mark.slow
def test_malformed_npz_files(tmp_path: Path) -> None:
    refusals, path = 0, tmp_path / "d.npz"
    for case in range(COUNT):
        an_npz(path, random.Random(f"{SEED} npz {case}"))
        refusals += refused(lambda: from_npz(str(path)), f"npz {case}")
        refused(lambda: from_published(path), f"published npz {case}")
        assert [found.name for found in tmp_path.iterdir()] == ["d.npz"]
    assert refusals > COUNT // 2


def picture_read(path: Path, side: int | None) -> None:
    picture = images.read(path, side)
    assert picture.dtype == torch.uint8 and picture.ndim == 3 and len(picture) == 3 and picture.numel()


@pytest.mark.slow
def test_malformed_pictures(tmp_path: Path) -> None:
    refusals, path = 0, tmp_path / "p.png"
    for case in range(COUNT):
        rng = random.Random(f"{SEED} picture {case}")
        a_picture(path, rng)
        side = rng.choice([None, 1, 8])
        refusals += refused(partial(picture_read, path, side), f"picture {case}")
    assert refusals > COUNT // 4


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_malformed_checkpoints(tmp_path: Path) -> None:
    refusals, path = 0, tmp_path / "last.ckpt"
    for case in range(COUNT):
        a_checkpoint(path, random.Random(f"{SEED} checkpoint {case}"))
        refusals += refused(lambda: export.load(path), f"checkpoint {case}")
        refused(lambda: export.read_checkpoint(path), f"checkpoint {case}, read")
        refused(lambda: checkpoint_files.find(str(path), tmp_path), f"checkpoint {case}, to go on from")
        assert not refused(lambda: checkpoint_files.find("auto", tmp_path), f"checkpoint {case}, auto")
        assert [found.name for found in tmp_path.iterdir()] == ["last.ckpt"]
    assert refusals > COUNT // 2


@pytest.mark.slow
def test_malformed_folders(tmp_path: Path) -> None:
    refusals, folder = 0, tmp_path / "best"
    for case in range(COUNT):
        a_folder(folder, random.Random(f"{SEED} folder {case}"))
        before = sorted(path.name for path in folder.iterdir())
        refusals += refused(lambda: export.load(folder), f"folder {case}")
        refused(lambda: from_published(folder / export.WEIGHTS), f"folder {case}, published")
        assert sorted(path.name for path in folder.iterdir()) == before
        shutil.rmtree(folder)
    assert refusals > COUNT // 2


@pytest.mark.slow
def test_malformed_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refusals = sum(config_refused(some_words(random.Random(f"{SEED} config {case}"))) for case in range(COUNT))
    assert refusals > COUNT // 2
    assert not list(tmp_path.iterdir())
