"""Archives that came from elsewhere: bombs, odd paths and torn files are refused in one line and little memory."""

import io
import random
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from client import archive
from client.archive import Limits
from client.bundle import read_bundle
from configs.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
SMALL = Limits("parcel", packed=4000, unpacked=10_000, files=5)

MANIFEST = b'[project]\nname = "app"\nversion = "1"\n[tool.flwr.app]\npublisher = "me"\n'


def zipped(content: Mapping[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Pack files."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", how) as packed:
        for name, data in content.items():
            packed.writestr(name, data)
    return memory.getvalue()


def unpacked(data: bytes, limits: Limits = SMALL) -> dict[str, bytes]:
    """Read an archive whole."""
    return {name: b"".join(pieces) for name, pieces in archive.read(io.BytesIO(data), limits, "x.zip")}


@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_what_is_within_limits_comes_out_as_it_went_in(how: int) -> None:
    """Empty files, folders in paths, and content of several pieces, up to the limit to the byte."""
    content = {"a.txt": b"", "b/c.d-e_f": b"x" * 3000, ".info/CONTENT": bytes(range(100))}
    assert unpacked(zipped(content, how)) == content
    assert unpacked(zipped({"a": b"\0" * 10_000})) == {"a": b"\0" * 10_000}
    large = {"a": random.Random(1).randbytes(3 * archive.PIECE + 1)}
    assert unpacked(zipped(large), Limits("parcel", 1_000_000, 1_000_000, 1)) == large


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ({"a": b"\0" * 10_001}, "x.zip unpacks to 10,001 bytes; its kind has 10,000 at most"),
        ({"a": b"\0" * 6000, "b": b"\0" * 6000}, "unpacks to 12,000 bytes"),
        ({"a": random.Random(1).randbytes(5000)}, "x.zip has 5,1.. bytes; its kind has 4,000 at most"),
        ({str(number): b"" for number in range(6)}, "x.zip holds too many files; its kind has 5 at most"),
        ({"A": b"1", "a": b"2"}, "holds a path twice"),
        ({"a": b"1", "a/b": b"2"}, "holds a path twice"),
        ({"../a": b""}, "'../a', which leads out of its folder"),
        ({"/a": b""}, "leads out of its folder"),
        ({"a\\b": b""}, "leads out of its folder"),
        ({"a/": b""}, "is no plain file"),
        ({"./a": b""}, "has an odd name"),
        ({"a//b": b""}, "has an odd name"),
        ({"\x1b[2Ja": b""}, r"'\\x1b\[2Ja', which has an odd name"),
        ({"a" * 201: b""}, "has an odd name"),
        ({"\u00e9": b""}, "has an odd name"),
    ],
)
def test_what_is_beyond_limits_is_refused(content: Mapping[str, bytes], why: str) -> None:
    """More bytes or files than there may be, and paths that are odd."""
    with pytest.raises(DataError, match=why):
        unpacked(zipped(content))


def test_a_path_that_is_there_twice_is_refused() -> None:
    """A reader that takes the first would see another file than one that takes the last."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as packed, pytest.warns(UserWarning, match="Duplicate"):
        packed.writestr("a", b"1")
        packed.writestr("a", b"2")
    with pytest.raises(DataError, match="holds a path twice"):
        unpacked(memory.getvalue())


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFDIR, stat.S_IFCHR])
def test_links_and_devices_are_refused(kind: int) -> None:
    """An archive can say that a file is a link to anywhere."""
    item = zipfile.ZipInfo("a")
    item.external_attr = (kind | 0o600) << 16
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as packed:
        packed.writestr(item, b"/etc/passwd")
    with pytest.raises(DataError, match="'a', which is no plain file"):
        unpacked(memory.getvalue())


@pytest.mark.parametrize("how", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_ways_to_pack_are_refused(how: int) -> None:
    """Their readers take what memory the archive asks for."""
    with pytest.raises(DataError, match="is packed in an odd way"):
        unpacked(zipped({"a": b"x"}, how))


def test_a_file_that_says_it_is_smaller_than_it_is_gives_no_more_than_that() -> None:
    """The sum of what files say of themselves is what is held to the limit."""
    data = bytearray(zipped({"a": b"\0" * 9000}))
    real = (9000).to_bytes(4, "little")
    while (place := data.find(real)) >= 0:
        data[place : place + 4] = (9).to_bytes(4, "little")
    with pytest.raises(DataError, match="damaged or no parcel"):
        unpacked(bytes(data))


def test_any_damage_is_a_data_error() -> None:
    """Torn and altered at random: what is not found out comes out as it went in."""
    content = {"a.txt": b"some text " * 20, "b/c": bytes(range(256))}
    whole, rng, refused = zipped(content), random.Random(0), 0
    for _ in range(2000):
        data = bytearray(whole[: rng.randrange(len(whole))] if rng.random() < 0.2 else whole)
        for _ in range(rng.randrange(3)):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            assert list(unpacked(bytes(data)).values()) == list(content.values())
        except DataError:
            refused += 1
    assert refused > 1000


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ({f"client/zero{number}.py": b"\0" * 50_000_000 for number in range(4)}, "unpacks to 200,000,0.. bytes"),
        ({f"client/{number}.py": b"" for number in range(2001)}, "2000 at most"),
        ({f"{number:05d}": b"" for number in range(65_000)}, "2000 at most"),
    ],
)
def test_a_bomb_takes_no_memory(content: Mapping[str, bytes], why: str, tmp_path: Path) -> None:
    """An app of 200 KB that unpacks to 200 MB, and one of 65,000 files, are refused in one line and a few megabytes."""
    (tmp_path / "bomb.fab").write_bytes(zipped({"pyproject.toml": MANIFEST, **content}))
    code = (
        "import sys, tracemalloc; from pathlib import Path; from client.bundle import read_bundle; "
        "from configs.errors import DataError\n"
        "tracemalloc.start()\n"
        "try: read_bundle(Path(sys.argv[1]))\n"
        "except DataError as error: print(error); print(tracemalloc.get_traced_memory()[1])"
    )
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "bomb.fab")], cwd=ROOT, capture_output=True, text=True, check=True
    )
    line, peak = done.stdout.splitlines()
    assert line.startswith(str(tmp_path / "bomb.fab")) and int(peak) < 5_000_000, (line, peak)
    with pytest.raises(DataError, match=why):
        read_bundle(tmp_path / "bomb.fab")
    assert time.monotonic() - began < 30


def test_a_bundle_is_read_in_pieces(tmp_path: Path) -> None:
    """A large app within the limits takes no more memory than a small one, and counts the same lines."""
    code = b"x = 1\n" * 8_000_000
    (tmp_path / "large.fab").write_bytes(zipped({"pyproject.toml": MANIFEST, "client/app.py": code, "a.md": code[:60]}))
    found = read_bundle(tmp_path / "large.fab")
    assert (found.lines, sorted(found.files)) == (8_000_000, ["a.md", "client/app.py", "pyproject.toml"])
    program = (
        "import sys, tracemalloc; from pathlib import Path; from client.bundle import read_bundle\n"
        "tracemalloc.start(); read_bundle(Path(sys.argv[1])); print(tracemalloc.get_traced_memory()[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "large.fab")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 5_000_000


@pytest.mark.parametrize("manifest", [b"", b"\xff", b"x = " + b"[" * 20_000, MANIFEST[:20], b"project = 1"])
def test_a_bundle_without_a_manifest_is_refused(manifest: bytes, tmp_path: Path) -> None:
    """Whatever is in its place, and none at all."""
    for content in ({"pyproject.toml": manifest}, {"a.py": b""}):
        (tmp_path / "x.fab").write_bytes(zipped(content))
        with pytest.raises(DataError, match="says not what it is"):
            read_bundle(tmp_path / "x.fab")
