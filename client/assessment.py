"""A draft of a data protection impact assessment, filled from what a site itself wrote down."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from client.gate import audit, budget, ledger, receipts
from client.gate.approval import Approval, approved_runs
from client.gate.gate import REFUSED
from client.gate.policy import Policy, read_policy
from client.home import Home
from configs.levels import LEVELS, MODELS
from configs.phases import at_sites

TEMPLATE = Path(__file__).parent / "templates" / "assessment.md"


@dataclass(frozen=True)
class Row:
    """What left in one phase of one run."""

    run: str
    phase: str
    replies: int
    bytes: str
    what: str


def draft(home: Home) -> str:
    """Give the draft, in Markdown.

    Raises:
        RunError: the folder is no site's, or its ledger was altered.
        ConfigError: site.toml or policy.toml is not as it should be.
        RefusalError: an approval is damaged.
    """
    settings, policy = home.settings, read_policy(home.policy if home.policy.exists() else None)
    entries = ledger.verified(home.gate / ledger.NAME)
    values = {
        "site": settings.name,
        "federation": home.kit["federation"],
        "address": settings.address,
        "today": time.strftime("%Y-%m-%d"),
        "counts": _counts(entries),
        "runs": [_run(run) for run in approved_runs(home.gate)],
        "entries": len(entries),
        "first": entries[0]["time"] if entries else "",
        "last": entries[-1]["time"] if entries else "",
        "size": f"{sum(int(entry['bytes']) for entry in entries):,}",
        "missing": len(receipts.missing(home.gate)),
        "refused": _lines(home.gate / REFUSED),
        "rows": list(_rows(entries)),
        "policy": policy,
        "meaning": LEVELS[policy.level],
        "answered": ", ".join(policy.answered) or "none",
        "promise": _promise(home.gate, policy),
        "audits": list(_audits(audit.audits(home.gate))),
        "rule": audit.rule(policy),
        "weights": _weights(entries, home.gate, policy),
        "keeps": "the segmenter leaves: level models" if policy.level == MODELS else "the segmenter stays at the site",
    }
    made = Environment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)
    return made.from_string(TEMPLATE.read_text(encoding="utf-8")).render({k: _plain(v) for k, v in values.items()})


def _plain(value: Any) -> Any:
    """Take out of texts that came from a hub what would be a table's or a page's own."""
    if isinstance(value, str):
        return " ".join(value.replace("|", "/").replace("<", "(").replace(">", ")").split())
    return value


def _run(run: Approval) -> Mapping[str, object]:
    preset = run.preset
    return {
        "run": run.run,
        "preset": _plain(preset.name),
        "contrast": preset.contrast,
        "structures": len(preset.table.structures),
        "seed": preset.seed,
        "rounds": sum(preset.phases.rounds(phase.name) for phase in at_sites()),
        "atlas": run.atlas[:12],
        "digest": run.experiment_digest[:12],
        "sums": bool(preset.sums),
    }


def _rows(entries: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    """Give what left, by run and phase, in the order in which it first did."""
    order = list(dict.fromkeys((str(entry["run"]), str(entry["phase"])) for entry in entries))
    for key, some in groupby(sorted(entries, key=lambda e: order.index((e["run"], e["phase"]))), _key):
        own = list(some)
        parts = sorted({part for entry in own for part in entry["parts"]})
        figures = sorted({name for entry in own for name in (*entry["metrics"], *entry["series"])})
        counts = ["counts"] if any(entry["count"] or entry["settings"] for entry in own) else []
        what = [*parts, *([f"{len(figures)} figures"] if figures else []), *counts]
        size = f"{sum(int(entry['bytes']) for entry in own):,}"
        run, phase = map(_plain, key)
        yield Row(run, phase, len(own), size, ", ".join(what) or "nothing but that it was done")


def _key(entry: Mapping[str, Any]) -> tuple[str, str]:
    return str(entry["run"]), str(entry["phase"])


def _counts(entries: Sequence[Mapping[str, Any]]) -> str:
    joined = [int(entry["count"]) for entry in entries if entry["phase"] == "join"]
    return f"{joined[-1]} scans train" if joined else "none yet"


def _promise(gate: Path, policy: Policy) -> str:
    found = budget.released(gate / ledger.NAME)
    if not found:
        return "none left."
    spent = budget.spent(gate / ledger.NAME, policy.delta)
    if math.isinf(spent):
        return "they left without noise in a run at least: there is no promise in numbers."
    return (
        f"means over people, with noise, in {len(found)} release(s): differential privacy with epsilon {spent:.2f} and "
        f"delta {policy.delta:g} for each person who trains, over all that left with noise so far; the policy allows "
        f"{policy.most_epsilon:g}."
    )


def _audits(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Say what audits of statistics found: of each run the last that passed, and the last that was stopped."""
    for entry in {(entry["run"], entry["stopped"]): entry for entry in found}.values():
        noise = "without noise" if entry["epsilon"] is None else f"epsilon {entry['epsilon']:g}"
        end = f"stopped: the policy had {entry['most_auc']:g}" if entry["stopped"] else "passed"
        yield f"{_plain(entry['run'])}, {entry['people']} people, {noise}: {_reached(entry)}; {end}"


def _reached(entry: Mapping[str, Any]) -> str:
    if not entry["auc"]:
        return "too few people to tell"
    (value, low, high), found = entry["auc"], entry["tpr_5"][0]
    area = f"AUC {value:.2f} ({low:.2f} to {high:.2f})"
    return f"{area}, {100 * found:.0f} % of members found at 5 % false positives, {entry['decisions']:,} decisions"


def _weights(entries: Sequence[Mapping[str, Any]], gate: Path, policy: Policy) -> str:
    parts = {part for entry in entries for part in entry["parts"]} - {"statistics", "sums"}
    if not parts:
        return "none left."
    rounds = budget.trained(gate / ledger.NAME).values()
    spent = budget.spent(gate / ledger.NAME, policy.delta)
    hidden = bool(rounds) and all(one.multiplier for one in rounds) and "moments" not in parts
    if hidden and math.isfinite(spent):
        return (
            f"the app trained them with noise, {len(rounds)} round(s): differential privacy with epsilon {spent:.2f} "
            f"and delta {policy.delta:g} for each person who trains, over all runs so far, with what statistics cost."
        )
    if parts == {"masked"}:
        return "they left masked: the hub has seen means over three sites or more, and no single site's."
    return f"they left in the clear ({', '.join(sorted(parts))}); there is no promise in numbers for them."


def _lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines()) if path.exists() else 0
