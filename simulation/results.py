"""What a run measured, on disk: results.json for programs, four CSV tables for a spreadsheet.

Written in pieces while a run goes on, read back when it continues, and read by the report. Every file is replaced as a
whole, so that a run stopped in the middle of a write leaves the file of before. The values themselves are in
`measured`, and can be imported from here too.
"""

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from configs.errors import ConfigError, RunError
from configs.structures import table_from
from simulation.measured import (
    ArmScore,
    Crossing,
    Curve,
    PairsPoint,
    Resemblance,
    Results,
    ScanScore,
    SetAside,
    Traffic,
)
from sst_models.wire.files import replace_file

__all__ = [
    "ArmScore",
    "Crossing",
    "Curve",
    "PairsPoint",
    "Resemblance",
    "Results",
    "ScanScore",
    "SetAside",
    "Traffic",
    "from_json",
    "read",
    "to_json",
    "write",
]

FORMAT = 1
"""Version of `results.json`; a reader refuses any other."""

Row = tuple[str | int | float, ...]


def write(results: Results, folder: Path) -> None:
    """Write results.json and the tables as CSV into `folder`, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (
        ("dice.csv", _dice(results)),
        ("table.csv", _table(results)),
        ("losses.csv", _losses(results)),
        ("traffic.csv", _traffic(results)),
        ("pairs.csv", _by_pairs(results)),
        ("cross-site.csv", _crossings(results)),
        ("timings.csv", _timings(results)),
    ):
        replace_file(folder / name, _csv(rows))
    # Last, since it is the one that a continued run reads.
    replace_file(folder / "results.json", to_json(results))


def read(folder: Path) -> Results:
    """The results of the run in `folder`.

    Raises:
        RunError: There is no `results.json`, or it is damaged or of another version.
    """
    path = folder / "results.json"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"no readable results in {path}: give the folder of a finished run") from error
    return from_json(text)


def to_json(results: Results) -> str:
    """One JSON document; a number that is not finite becomes null."""
    return json.dumps({"format": FORMAT, **plain(asdict(results))}, indent=1, sort_keys=True, allow_nan=False) + "\n"


def from_json(text: str) -> Results:
    """The results that `to_json` wrote; null becomes NaN.

    Raises:
        RunError: The text is not a results document of this version.
    """
    try:
        document = json.loads(text)
        if document["format"] != FORMAT:
            raise RunError(f"results.json has format {document['format']}, this version reads {FORMAT}: run again")
        return _results(document)
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
        raise RunError("results.json is damaged: remove it and give the same command again") from error


def plain(value: Any) -> Any:
    """Give a value as JSON has it: tuples as lists, and null for a number that is not finite."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _scan(item: Mapping[str, Any]) -> ScanScore:
    dice = {group: _number(value) for group, value in item["dice"].items()}
    return ScanScore(item["case"], dice, *(_number(item.get(key)) for key in ("mean", "hd95", "folded")))


def _arm(item: Mapping[str, Any]) -> ArmScore:
    scans = tuple(_scan(scan) for scan in item["scans"])
    return ArmScore(item["arm"], item["source"], item["target"], scans, item.get("against", ""))


def _curve(item: Mapping[str, Any]) -> Curve:
    losses = {name: tuple(_number(v) for v in values) for name, values in item["losses"].items()}
    return Curve(item["phase"], item["site"], item["scheme"], tuple(item["steps"]), losses)


def _pairs(item: Mapping[str, Any]) -> PairsPoint:
    numbers = {"mean": _number(item["mean"]), "std": _number(item["std"])}
    return PairsPoint(**{**item, **numbers, "scans": tuple(_number(v) for v in item["scans"])})


def _resemblance(item: Mapping[str, Any]) -> Resemblance:
    varied, sized = ({name: _number(v) for name, v in item[key].items()} for key in ("variation", "size"))
    auc, nearest, nearest_scans, order = (_number(item[key]) for key in ("auc", "nearest", "nearest_scans", "order"))
    return Resemblance(item["source"], item["target"], varied, sized, auc, nearest, nearest_scans, order)


def _results(document: Mapping[str, Any]) -> Results:
    return Results(
        run=document["run"],
        label_table=table_from(rows).rows if (rows := document.get("label_table")) else (),
        scores=tuple(_arm(item) for item in document["scores"]),
        # Version 0.3 had neither of these.
        agreements=tuple(_arm(item) for item in document.get("agreements", ())),
        crossings=tuple(Crossing(**{**item, "mean": _number(item["mean"])}) for item in document.get("crossings", ())),
        curves=tuple(_curve(item) for item in document["curves"]),
        traffic=tuple(Traffic(**item) for item in document["traffic"]),
        pairs=tuple(_pairs(item) for item in document["pairs"]),
        set_aside=tuple(SetAside(**item) for item in document["set_aside"]),
        resemblance=tuple(_resemblance(item) for item in document.get("resemblance", ())),  # none before version 0.4
        timings={name: _number(value) for name, value in document["timings"].items()},
    )


def _csv(rows: Iterable[Row]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue()


def _cell(value: str | int | float) -> str:
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else ""
    return str(value)


def _dice(results: Results) -> Iterator[Row]:
    yield ("arm", "source", "target", "scan", "group", "dice")
    for score in results.scores:
        for scan in score.scans:
            for group, dice in scan.dice.items():
                yield (score.arm, score.source, score.target, scan.case, group, dice)


def _table(results: Results) -> Iterator[Row]:
    yield ("arm", "source", "target", "scans", "mean", "std", "hd95_mm", "folded_percent", *results.groups)
    for score in results.scores:
        groups = score.groups
        means = (groups.get(group, math.nan) for group in results.groups)
        yield (score.arm, score.source, score.target, len(score.scans), *_summary(score), *means)


def _summary(score: ArmScore) -> tuple[float, ...]:
    return score.mean, score.std, score.hd95, score.folded


def _losses(results: Results) -> Iterator[Row]:
    yield ("scheme", "phase", "site", "step", "loss", "value")
    for curve in results.curves:
        for name, values in curve.losses.items():
            for step, value in zip(curve.steps, values, strict=False):
                yield (curve.scheme, curve.phase, curve.site, step, name, value)


def _by_pairs(results: Results) -> Iterator[Row]:
    """Give Dice against the number of generated pairs, scan by scan (Fig. 7)."""
    yield ("arm", "source", "target", "pairs", "scan", "dice")
    for point in results.pairs:
        for number, dice in enumerate(point.scans, start=1):
            yield (point.arm, point.source, point.target, point.pairs, number, dice)


def _crossings(results: Results) -> Iterator[Row]:
    """Give the cross-site table: the model of which style reaches what at which site."""
    yield ("source", "style", "target", "scans", "mean")
    for item in results.crossings:
        yield (item.source, item.style, item.target, item.scans, item.mean)


def _timings(results: Results) -> Iterator[Row]:
    """Give the seconds that each part of the run took, over all calls."""
    yield ("part", "seconds")
    yield from results.timings.items()


def _traffic(results: Results) -> Iterator[Row]:
    yield ("scheme", "phase", "round", "site", "down_bytes", "up_bytes")
    for item in results.traffic:
        yield (item.scheme, item.phase, item.round, item.site, item.down, item.up)
