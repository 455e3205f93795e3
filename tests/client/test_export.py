# mypy: untyped-calls-exclude="nibabel"
"""Exports: the model's own probabilities in other software, nothing of the atlas, and nobody's files lost."""

import dataclasses
import json
import logging
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

from client.export import check as checks
from client.export import write
from client.export.bundle import NEEDS
from client.export.network import Exported
from client.export.write import MARK, write_export
from client.model import Model
from configs.errors import ConfigError, DataError, RunError
from configs.structures import PAPER
from egg import affine_for, make_model, sample
from sst_models.networks.segmenter import Segmenter
from sst_models.propagation.predict import Prediction, network_probabilities
from sst_models.volume.grid import Grid, sample_image
from sst_models.volume.intensity import robust_scale
from sst_models.wire import weights

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model in a folder with a space in its name."""
    return make_model(tmp_path_factory.mktemp("a model") / "model", registration=True)


@pytest.fixture(scope="module")
def bundle(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its MONAI bundle."""
    return write_export(model, tmp_path_factory.mktemp("a bundle") / "bundle", "monai-bundle").folder


def volumes(model: Model, count: int) -> torch.Tensor:
    """Give unlike volumes (N, 1, D, H, W), the atlas first."""
    image = torch.from_numpy(model.frame.image)
    return torch.stack([image.roll(2 * number, 0) * (1 - 0.2 * number) for number in range(count)])[:, None]


def own(model: Model, given: torch.Tensor, how: Prediction | None = None) -> torch.Tensor:
    """Give the model's probabilities, one volume after the other."""
    net, usual = model.segmenter(CPU), how or Prediction.of(model.experiment)
    return torch.stack([network_probabilities(net, one, usual) for one in given])


@pytest.mark.parametrize("augmentation", ["none", "mirror", "mirror+shifts"])
@pytest.mark.parametrize("normalise", ["minmax", "zscore"])
def test_the_exported_network_gives_the_probabilities_of_the_model(
    model: Model, augmentation: str, normalise: str
) -> None:
    """With all that a preset may ask for, for several volumes at once, as for one after the other."""
    how = Prediction.of(model.experiment)
    how = dataclasses.replace(how, test_time_augmentation=augmentation, normalise=normalise)
    net = model.segmenter(CPU)
    assert isinstance(net, Segmenter)
    given = volumes(model, 2)
    with torch.no_grad():
        found = Exported(net, how, model.frame.shape)(given)
    torch.testing.assert_close(found, own(model, given, how), atol=1e-5, rtol=0)


def test_torchscript_gives_the_probabilities_of_the_model(model: Model, bundle: Path) -> None:
    """Of any number of volumes; and the file says what it is."""
    given, extra = volumes(model, 3), {"sst.json": ""}
    net = torch.jit.load(bundle / "models" / "model.ts", _extra_files=extra)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(net(given), own(model, given), atol=1e-5, rtol=0)
    about = json.loads(extra["sst.json"])
    assert about["model"] == model.digest and about["ids"] == list(PAPER.ids) and about["names"][0] == "background"


def test_the_same_model_gives_the_same_bytes(model: Model, bundle: Path, tmp_path: Path) -> None:
    """Traced again by another process, for another format."""
    done = write_export(model, tmp_path / "plain", "torchscript")
    assert done.files[0].read_bytes() == (bundle / "models" / "model.ts").read_bytes()
    assert {path.name for path in done.files} == {"model.ts", "README.md", "LICENSE", MARK}


def test_onnx_gives_the_probabilities_of_the_model(model: Model, tmp_path: Path) -> None:
    """Of any number of volumes, by ONNX's own runtime; and the file says what it is, and where nothing lay."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    done = write_export(model, tmp_path / "out", "onnx")
    given, content = volumes(model, 3), done.files[0].read_bytes()
    found = checks.run_onnx(content, given)
    torch.testing.assert_close(found, own(model, given), atol=1e-5, rtol=0)
    assert done.checked.difference < 1e-5 and done.checked.differing == 0
    made = onnx.load_from_string(content)
    onnx.checker.check_model(made, full_check=True)
    assert json.loads(made.metadata_props[0].value)["model"] == model.digest
    assert str(ROOT).encode() not in content and b"site-packages" not in content


def test_nothing_says_where_it_was_made_or_what_the_atlas_looks_like(model: Model, bundle: Path) -> None:
    """No path of this machine in the network, and no row of the atlas's voxels in any file, unless asked for."""
    import zipfile

    with zipfile.ZipFile(bundle / "models" / "model.ts") as archive:
        parts = [archive.read(name) for name in archive.namelist()]
    files = [path.read_bytes() for path in bundle.rglob("*") if path.is_file()]
    row = model.frame.image[model.frame.shape[0] // 2, model.frame.shape[1] // 2]
    assert np.count_nonzero(row) > 10
    for content in (*parts, *files):
        assert str(ROOT).encode() not in content and b"site-packages" not in content
        assert row.astype(np.float32).tobytes() not in content
    assert not list(bundle.glob("*.nii.gz"))


def test_the_atlas_goes_along_where_it_is_asked_for(
    model: Model, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On its grid, so that others can align scans to it; the card says which."""
    quick(monkeypatch, bundle)
    folder = write_export(model, tmp_path / "out", "torchscript", with_atlas=True).folder
    image = nib.load(folder / "atlas.nii.gz")
    np.testing.assert_array_equal(np.asarray(image.dataobj), model.frame.image)
    np.testing.assert_allclose(image.affine, model.frame.affine)
    assert "`atlas.nii.gz`" in (folder / "README.md").read_text(encoding="utf-8")


def test_the_card_is_what_hubs_read_and_says_what_is_left_out(model: Model, bundle: Path) -> None:
    """Front matter in YAML; limits, licence, ids, and what `sst segment` does beside."""
    text = (bundle / "README.md").read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    about = yaml.safe_load(front)
    assert about["license"] == "other" and about["pipeline_tag"] == "image-segmentation"
    assert about["library_name"] == "monai" and "T1w" in about["tags"]
    for said in ("no medical device", "expectation maximisation", "affine registration", model.digest):
        assert said in body
    assert all(f"| {structure.id} | {structure.name} |" in body for structure in PAPER.structures)
    assert "The atlas, a scan of a person, is not in this export" in body
    assert "registration propagates" not in body  # preset "tiny" has no such labels
    assert text == (bundle / "docs" / "README.md").read_text(encoding="utf-8")
    assert (bundle / "LICENSE").read_text(encoding="utf-8").strip() == model.card["licence"]


def test_versions_that_a_bundle_asks_for_are_those_that_are_tested() -> None:
    """As pinned."""
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert {name: pinned[name] for name in NEEDS} == NEEDS
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["export"]
    assert {"fire", "pytorch-ignite"} <= {line.split(">")[0] for line in extra}


# MONAI


@pytest.fixture
def monai(monkeypatch: pytest.MonkeyPatch) -> Any:
    """MONAI's bundles, which set up logging for all."""
    pytest.importorskip("ignite")
    import monai.bundle

    monkeypatch.setattr(logging.config, "fileConfig", lambda *_, **__: None)
    return monai.bundle


def configs(bundle: Path, *names: str) -> list[str]:
    """Give paths of a bundle's configurations."""
    return [str(bundle / "configs" / name) for name in names]


def test_monai_verifies_the_network_of_a_bundle(bundle: Path, monai: Any) -> None:
    """Its channels, shape and type are those that the metadata promise."""
    meta = configs(bundle, "metadata.json")[0]
    monai.verify_net_in_out(
        "network_def", meta, configs(bundle, "inference.json"), device="cpu", bundle_root=str(bundle)
    )
    about = json.loads(Path(meta).read_text())
    about["network_data_format"]["outputs"]["pred"]["num_channels"] -= 1
    wrong = bundle.parent / "wrong.json"
    wrong.write_text(json.dumps(about))
    with pytest.raises(ValueError, match="output channel number"):
        monai.verify_net_in_out(
            "network_def", str(wrong), configs(bundle, "inference.json"), device="cpu", bundle_root=str(bundle)
        )


def run(monai: Any, bundle: Path, scans: Path, out: Path, *names: str) -> None:
    """Run a bundle as `python -m monai.bundle run` does."""
    monai.run(
        config_file=configs(bundle, *names),
        meta_file=configs(bundle, "metadata.json")[0],
        bundle_root=str(bundle),
        dataset_dir=str(scans),
        output_dir=str(out),
        device="$torch.device('cpu')",
    )


def likeliest(model: Model, image: torch.Tensor) -> np.ndarray:
    """Give the ids that the model's network finds likeliest in (D, H, W)."""
    found = own(model, image[None, None])[0].argmax(0).numpy()
    return np.array(PAPER.ids)[found]


def test_a_bundle_runs_on_prepared_scans(model: Model, bundle: Path, monai: Any, tmp_path: Path) -> None:
    """From what `sst prepare` keeps to label maps with ids, on the grid of the atlas."""
    image = volumes(model, 2)[1, 0]
    weights.save({"image": image.contiguous()}, tmp_path / "in" / "one.safetensors")
    run(monai, bundle, tmp_path / "in", tmp_path / "out", "inference.json", "prepared.json")
    written = nib.load(tmp_path / "out" / "one_dseg.nii.gz")
    np.testing.assert_array_equal(np.asarray(written.dataobj), likeliest(model, image))
    np.testing.assert_allclose(written.affine, model.frame.affine)


@pytest.mark.parametrize(
    ("axes", "sides"), [("RAS", (2.0, 2.0, 2.0)), ("LIA", (3.0, 3.0, 3.0)), ("PSR", (9.0, 9.0, 9.0))]
)
def test_a_bundle_brings_an_aligned_scan_to_the_grid_as_we_do(
    model: Model, bundle: Path, monai: Any, tmp_path: Path, axes: str, sides: tuple[float, float, float]
) -> None:
    """Finer or coarser than the grid, on any axes; what comes out lies on the grid."""
    affine, shape = affine_for(axes, sides)
    voxels = sample(affine, shape)[0]
    nib.save(nib.Nifti1Image(voxels, affine), tmp_path / "one.nii.gz")
    rows = np.array(model.frame.affine)
    place = Grid(model.frame.shape, model.frame.spacing, tuple(rows[:3, 3].tolist()))
    wanted = robust_scale(sample_image(voxels, affine, place))
    parser = monai.ConfigParser()
    parser.read_config(configs(bundle, "inference.json"))
    parser["dataset_dir"] = str(tmp_path)
    found = parser.get_parsed_content("dataset")[0]["image"]
    torch.testing.assert_close(found.as_tensor()[0], wanted, atol=2e-4, rtol=0)
    run(monai, bundle, tmp_path, tmp_path / "out", "inference.json")
    written = np.asarray(nib.load(tmp_path / "out" / "one_dseg.nii.gz").dataobj)
    assert (written == likeliest(model, wanted)).mean() > 0.999


def test_a_bundle_without_scans_says_so(bundle: Path, monai: Any, tmp_path: Path) -> None:
    """And where it looked."""
    with pytest.raises((SystemExit, RuntimeError), match="no scans in|Failed to evaluate"):
        run(monai, bundle, tmp_path, tmp_path / "out", "inference.json")


# Folders


def quick(monkeypatch: pytest.MonkeyPatch, bundle: Path) -> None:
    """Take the network that was traced before."""
    content = (bundle / "models" / "model.ts").read_bytes()
    monkeypatch.setattr(write, "_traced", lambda *_: content)


def test_a_folder_of_something_else_is_refused(
    model: Model, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger's files, another format, another model, a file: nothing of them is touched."""
    quick(monkeypatch, bundle)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "README.md").write_text("theirs")
    (tmp_path / "file").write_text("theirs")
    for name in ("theirs", "file"):
        with pytest.raises(DataError, match=f"{name} holds something that is no export; give another folder"):
            write_export(model, tmp_path / name, "torchscript")
    assert (tmp_path / "theirs" / "README.md").read_text() == (tmp_path / "file").read_text() == "theirs"
    out = write_export(model, tmp_path / "out", "torchscript").folder
    with pytest.raises(DataError, match="another model, or to another format"):
        write_export(model, out, "monai-bundle")
    mark = json.loads((out / MARK).read_text())
    (out / MARK).write_text(json.dumps({**mark, "model": "0" * 64}))
    with pytest.raises(DataError, match="another model, or to another format"):
        write_export(model, out, "torchscript")


def test_the_same_export_again_keeps_what_users_added(
    model: Model, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bytes, beside the label maps that a bundle wrote; a card that was edited is not written over."""
    quick(monkeypatch, bundle)
    out = write_export(model, tmp_path / "out", "torchscript").folder
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    (out / "eval").mkdir()
    (out / "eval" / "one.nii.gz").write_text("found")
    (out / "LICENSE").unlink()
    write_export(model, out, "torchscript")
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before
    assert (out / "eval" / "one.nii.gz").read_text() == "found"
    (out / "README.md").write_text("edited")
    with pytest.raises(DataError, match=r"README\.md was changed since it was exported"):
        write_export(model, out, "torchscript")
    assert (out / "README.md").read_text() == "edited"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda patch: patch.setattr(checks, "MOST", -1.0), "differs from the model"),
        (lambda patch: patch.setattr(write, "metadata", lambda _: 1 / 0), None),
    ],
)
def test_an_export_that_fails_leaves_nothing(
    model: Model,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[pytest.MonkeyPatch], None],
    said: str | None,
) -> None:
    """A network that is not the model's, or a fault half-way: no folder, no part of one."""
    quick(monkeypatch, bundle)
    spoil(monkeypatch)
    with pytest.raises(RunError if said else ZeroDivisionError, match=said):
        write_export(model, tmp_path / "out", "monai-bundle")
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is written."""
    monkeypatch.setattr(write, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(ConfigError, match=r"--to onnx needs onnxscript; pip install .*requirements-export.lock"):
        write_export(model, tmp_path / "out", "onnx")
    assert not list(tmp_path.iterdir())
