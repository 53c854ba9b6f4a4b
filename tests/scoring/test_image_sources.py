"""Images and references by path: every layout gives the same images, and what cannot be is one sentence."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from pqbench.base.errors import UserError
from pqbench.contracts import Extractor
from pqbench.scoring.images import sources as image_sources
from pqbench.scoring.images.sources import StatisticsFile, open_images, open_reference
from pqbench.scoring.reference import load_statistics, statistics_metadata, statistics_of
from pqbench.testing.tiny import TinyWorkload


def draw(n: int = 7, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, channels, 5, 4), generator=generator, dtype=torch.uint8)


def write_folder(path: Path, images: Tensor) -> Path:
    path.mkdir()
    for i, image in enumerate(images):
        pixels = image.permute(1, 2, 0).numpy()
        Image.fromarray(pixels.squeeze(2) if len(image) == 1 else pixels).save(path / f"{i:03}.png")
    (path / "notes.txt").write_text("no image")
    return path


@pytest.mark.parametrize("channels", [1, 3])
def test_all_layouts_give_the_same_images(channels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_sources, "_BATCH_BYTES", 3 * channels * 20)  # batches of three
    images = draw(channels=channels)
    last = images.permute(0, 2, 3, 1).contiguous().numpy()
    write_folder(tmp_path / "folder", images)
    np.savez(tmp_path / "a.npz", arr_0=last)
    np.savez_compressed(tmp_path / "b.npz", images=images.numpy(), labels=np.zeros(7))
    save_file({"images": images}, tmp_path / "c.safetensors")
    save_file({"x": torch.from_numpy(last)}, tmp_path / "d.safetensors")
    if channels == 1:
        np.savez(tmp_path / "e.npz", arr_0=last.squeeze(3))
    hashes = set()
    for path in sorted(tmp_path.iterdir()):
        source = open_images(path)
        assert (len(source), source.shape) == (7, (channels, 5, 4))
        batches = list(source)
        assert [len(batch) for batch in batches] == [3, 3, 1]
        assert torch.equal(torch.cat(batches), images)
        hashes.add(source.sha256)
    assert len(hashes) == len(list(tmp_path.iterdir()))


def test_a_folders_hash_follows_names_and_contents(tmp_path: Path) -> None:
    first, second = (write_folder(tmp_path / name, draw()) for name in ("one", "two"))
    assert open_images(first).sha256 == open_images(second).sha256
    (second / "003.png").rename(second / "a.png")
    assert open_images(first).sha256 != open_images(second).sha256


def test_names_need_not_be_utf_8(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "images", draw(n=3))
    before = open_images(folder).sha256
    (folder / "001.png").rename(folder / os.fsdecode(b"00\xe9.png"))
    found = open_images(folder)
    digest = hashlib.sha256()
    for name in (b"000.png", b"002.png", b"00\xe9.png"):  # é in Latin-1
        content = (folder / os.fsdecode(name)).read_bytes()
        digest.update(name + b"\0" + hashlib.sha256(content).hexdigest().encode() + b"\n")
    assert found.sha256 == digest.hexdigest() != before


@pytest.mark.parametrize(
    ("names", "wrong"),
    [
        ("img.png img1.png img2.png", ""),
        ("a,b.png a.png a1.png", ""),  # nothing here is counted twice
        ("1/0.png 01/0.png 1a/0.png", ""),
        ("\u0661/0.png \u0662/0.png b/0.png", ""),  # digits that are not 0 to 9 sort as any text
        ("img.png img1.png img2.png img10.png", "img10.png"),
        ("2/0.png 10/0.png", "10/0.png"),
        ("v1.2-9.png v1.10-0.png", "v1.10-0.png"),
    ],
)
def test_names_sort_as_they_count(names: str, wrong: str, tmp_path: Path) -> None:
    for name in names.split():
        file = tmp_path / "images" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 5)).save(file)
    source = open_images(tmp_path / "images")
    if not wrong:
        source.require_order("the prompts can follow", "Name them.")
        return
    with pytest.raises(UserError, match=rf"do not sort as they count \(see {wrong}\), .* prompts can .*\. Name them"):
        source.require_order("the prompts can follow", "Name them.")


def test_bad_images_are_one_sentence(tmp_path: Path) -> None:
    def refused(path: Path, message: str) -> None:
        with pytest.raises(UserError, match=message) as caught:
            list(open_images(path))
        assert "\n" not in str(caught.value)

    refused(tmp_path / "nowhere", "There is no .*nowhere: give a folder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "has no images in it")
    mixed = write_folder(tmp_path / "mixed", draw())
    Image.new("RGB", (9, 9)).save(mixed / "100.png")
    refused(mixed, "mixes images: 000.png is 5x4 in colour and 100.png is 9x9 in colour")
    (mixed / "100.png").unlink()
    (mixed / "cats").mkdir()
    Image.new("RGB", (9, 9)).save(mixed / "cats" / "000.png")
    refused(mixed, "000.png is 5x4 in colour and cats/000.png is 9x9 in colour")
    greys = write_folder(tmp_path / "greys", draw())
    Image.new("L", (4, 5)).save(greys / "100.png")
    refused(greys, "000.png is 5x4 in colour and 100.png is 5x4 in grey")
    broken = write_folder(tmp_path / "broken", draw())
    (broken / "002.png").write_bytes(b"not a picture")
    refused(broken, "002.png cannot be read as an image")
    cut = write_folder(tmp_path / "cut", draw())
    (cut / "002.png").write_bytes((cut / "001.png").read_bytes()[:60])
    refused(cut, "002.png cannot be read as an image")
    begun = write_folder(tmp_path / "begun", draw())
    (begun / "100.ppm").write_bytes(b"P6\n4")
    refused(begun, "100.ppm cannot be read as an image .Reached EOF while reading header.")
    clear = write_folder(tmp_path / "clear", draw())
    Image.new("RGBA", (4, 5)).save(clear / "000.png")
    refused(clear, "000.png is of mode RGBA: give images in RGB or grey")
    Image.new("RGB", (4, 5)).save(clear / "000.png", transparency=(0, 0, 0))
    refused(clear, "000.png has a transparent colour")
    Image.new("P", (4, 5)).save(clear / "000.png", transparency=0)
    refused(clear, "000.png has a transparent colour")
    text = tmp_path / "text.txt"
    text.write_text("hello")
    refused(text, "neither a folder of images nor an .npz or .safetensors file")


@pytest.mark.parametrize("opened", [open_images, open_reference])
def test_a_part_of_a_folder_that_cannot_be_read_is_not_left_out(
    opened: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder(tmp_path / "images", draw())
    write_folder(folder / "closed", draw())
    scan = os.scandir

    def refuse(path: Any) -> Any:
        # Modes of files do not hold root back.
        if Path(path).name == "closed":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"images/closed cannot be read \(Permission denied\), so the images of .* not"):
        opened(folder)
    monkeypatch.undo()
    (folder / "closed" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(UserError, match=r"closed/gone\.png cannot be read as an image"):
        opened(folder)


@pytest.mark.parametrize("form", ["npz", "safetensors"])
def test_bad_arrays_are_one_sentence(form: str, tmp_path: Path) -> None:
    path = tmp_path / f"images.{form}"

    def refused(message: str, **arrays: Tensor) -> None:
        if arrays and form == "npz":
            np.savez(path, **{name: tensor.numpy() for name, tensor in arrays.items()})  # type: ignore[arg-type]
        elif arrays:
            save_file(arrays, path)
        with pytest.raises(UserError, match=message):
            list(open_images(path))

    floats = draw().float() / 255
    refused("holds images of type (float32|F32), and extractors take uint8", images=floats)
    floats[4, 0, 1, 1] = torch.nan
    refused("has NaN or infinite pixels in 1 of its first 7 images", images=floats)
    refused("array of shape", images=torch.zeros(4, 2, 5, 5, dtype=torch.uint8))
    refused("no images in it", images=torch.zeros(0, 3, 5, 5, dtype=torch.uint8))
    refused("no array called images, arr_0, samples, but a, b", a=draw(), b=draw())
    if form == "safetensors":
        for dtype in (torch.bfloat16, torch.float8_e4m3fn):
            refused("holds images of type (BF16|F8_E4M3), and extractors take uint8", images=draw().to(dtype))
        refused("has NaN or infinite pixels in 1 of", images=floats.bfloat16())
    if form == "npz":
        refused("holds statistics, not images", mu=torch.zeros(3), sigma=torch.eye(3))
    else:
        refused("holds statistics, not images", mean=torch.zeros(3), covariance=torch.eye(3))
    path.write_bytes(b"PK\x03\x04 this is no archive")
    refused("cannot be read: it is damaged or not what its name says")


def packed(path: Path, method: int, header: bytes = b"{'descr'", **arrays: np.ndarray[Any, Any]) -> bytearray:
    """The bytes of an .npz file that is then spoilt. `header` takes the place of the arrays' first 8 bytes of it."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.save(member, array)
            archive.writestr(f"{name}.npy", member.getvalue().replace(b"{'descr'", header))
    return bytearray(path.read_bytes())


def in_the_stream(path: Path, **arrays: np.ndarray[Any, Any]) -> bytes:
    """Damaged where compressed data begins: no block of deflate begins so."""
    whole = packed(path, zipfile.ZIP_DEFLATED, **arrays)
    with zipfile.ZipFile(path) as archive:
        start = archive.infolist()[-1].header_offset + 30 + len(archive.infolist()[-1].filename)
    whole[start : start + 8] = b"\xff" * 8
    return whole


def in_the_header(path: Path, **arrays: np.ndarray[Any, Any]) -> bytes:
    """The arrays' headers, Python literals, never end."""
    return packed(path, zipfile.ZIP_STORED, b"((((((((", **arrays)


def of_an_unknown_compression(path: Path, **arrays: np.ndarray[Any, Any]) -> bytes:
    whole = packed(path, zipfile.ZIP_STORED, **arrays)
    for signature, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        start = whole.rindex(signature) + place
        whole[start : start + 2] = b"\x63\x00"
    return whole


def encrypted(path: Path, **arrays: np.ndarray[Any, Any]) -> bytes:
    whole = packed(path, zipfile.ZIP_STORED, **arrays)
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        whole[whole.rindex(signature) + place] |= 1
    return whole


@pytest.mark.parametrize("spoilt", [in_the_stream, in_the_header, of_an_unknown_compression, encrypted])
def test_archives_that_cannot_be_read_are_one_sentence(spoilt: Callable[..., bytes], tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(spoilt(path, images=draw().numpy()))
    with pytest.raises(UserError, match=r"a\.npz cannot be read: it is damaged or not what its name says \("):
        list(open_images(path))
    path.write_bytes(spoilt(path, mu=np.zeros(8), sigma=np.eye(8)))
    file = open_reference(path)
    assert isinstance(file, StatisticsFile)
    with pytest.raises(UserError, match=r"a\.npz cannot be read as statistics \("):
        load_statistics(file, TinyWorkload().extractor())


def test_statistics_are_those_of_all_images_and_survive_their_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_sources, "_BATCH_BYTES", 3 * 8 * 8 * 10)
    images = torch.randint(0, 256, (33, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    np.savez(tmp_path / "real.npz", images=images.numpy())
    extractor = TinyWorkload().extractor()
    source = open_images(tmp_path / "real.npz")
    found = statistics_of(extractor, source, "float16", lambda *_: None)
    features = extractor.net(images).double()
    torch.testing.assert_close(found["mean"], features.mean(0))
    torch.testing.assert_close(found["covariance"], features.T.cov())
    assert found["features"].dtype == torch.float16
    torch.testing.assert_close(found["features"].double(), features, rtol=2e-3, atol=1e-4)
    save_file(found, tmp_path / "s.safetensors", metadata={"extractor_sha256": extractor.sha256})
    file = open_reference(tmp_path / "s.safetensors")
    assert isinstance(file, StatisticsFile)
    reference = load_statistics(file, extractor)
    assert (reference.n, len(reference.features), reference.spatial) == (33, 33, None)
    with pytest.raises(UserError, match="was made with an extractor of sha256"):
        load_statistics(file, Extractor(extractor.net, "other", "0" * 64))


@pytest.mark.parametrize("changes", [{"name": "fid-clean"}, {"pixels": "uint8, resized in another way"}])
def test_statistics_of_an_extractor_that_shares_the_weights_are_refused(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    extractor = TinyWorkload().extractor()
    other = dataclasses.replace(extractor, **changes)
    found = {"mean": torch.zeros(8), "covariance": torch.eye(8)}
    save_file(found, tmp_path / "s.safetensors", metadata=statistics_metadata(other))
    file = open_reference(tmp_path / "s.safetensors")
    assert isinstance(file, StatisticsFile)
    assert load_statistics(file, other).n == 0
    with pytest.raises(UserError, match=r"was made with the extractor .*, and this one is tiny"):
        load_statistics(file, extractor)


def test_of_a_file_of_statistics_only_they_are_read_in_any_byte_order(tmp_path: Path) -> None:
    path = tmp_path / "s.npz"
    np.savez(path, mu=np.arange(8, dtype=">f8"), sigma=np.eye(8, dtype=">f4"), classes=np.array(["cat", "dog"]))
    file = open_reference(path)
    assert isinstance(file, StatisticsFile)
    reference = load_statistics(file, TinyWorkload().extractor())
    torch.testing.assert_close(reference.mean, torch.arange(8, dtype=torch.float64))
    torch.testing.assert_close(reference.covariance, torch.eye(8, dtype=torch.float64))


def test_broken_statistics_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "s.npz"
    for arrays, message in (
        ({"mu": np.zeros(3), "sigma": np.eye(4)}, "do not fit"),
        ({"mu": np.full(3, np.nan), "sigma": np.eye(3)}, "NaN or infinite values in its statistics"),
        ({"mu": np.zeros(3), "sigma": 1j * np.eye(3)}, "complex numbers"),
        ({"mu": np.zeros(3), "sigma": -np.eye(3)}, "is no covariance"),
        ({"mu": np.zeros(3), "sigma": np.eye(3) + np.eye(3, k=1) / 2}, "is no covariance"),
        ({"mu": np.zeros(3), "sigma": np.eye(3) + 2 * np.eye(3)[::-1]}, "is no covariance"),
        ({"mu": np.zeros(3), "sigma": np.eye(3), "n": np.arange(2)}, "n must be one whole number"),
        ({"mu": np.zeros(3), "sigma": np.eye(3), "features": np.zeros((5, 2))}, r"must be \(M, 3\)"),
        ({"mu": np.zeros(3), "sigma": np.eye(3), "features": np.full((5, 3), np.nan)}, "NaN or infinite features"),
        ({"mu": np.array([None] * 3), "sigma": np.eye(3)}, "Object arrays cannot be loaded"),
    ):
        np.savez(path, **arrays)
        file = open_reference(path)
        assert isinstance(file, StatisticsFile)
        with pytest.raises(UserError, match=message):
            load_statistics(file, TinyWorkload().extractor())


def test_objects_in_an_array_are_never_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "o.npz", images=np.array([_Touching(tmp_path / "unpickled")] * 3, dtype=object))
    with pytest.raises(UserError, match="of objects"):
        open_images(tmp_path / "o.npz")
    assert not (tmp_path / "unpickled").exists()


class _Touching:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)
