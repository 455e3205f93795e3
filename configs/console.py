"""What the commands of all parts share: examples in their help, options for scripts, and what is printed where.

What a command has done goes to stdout; what is wrong, and how far it is, to stderr. With `--json` stdout has one JSON
document and nothing else, and with `--quiet` stderr has only what is wrong.
"""

import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import click
import typer
from typer.core import TyperCommand

from configs import presets
from configs.shown import LINE, shown

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, and all else on stderr.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say only what is wrong; show no progress.")]

PRESET = f"A preset (sst presets): {', '.join(presets.names())}; or the path of a .toml file."
"""Help of `--preset`, which names all of them."""

EXAMPLE = "Example:"


def example(*lines: str) -> str:
    """Give the text below a command's help: lines that can be given as they are; one that ends in a \\ goes on."""
    return "\n\n".join((EXAMPLE, *lines))


def examples(epilog: str | None) -> list[str]:
    """Give the command lines of an `example` back, each as one line."""
    lines = (epilog or "").partition(EXAMPLE)[2].replace("\\\n\n", "").split("\n\n")
    return [" ".join(line.split()) for line in lines if line.strip()]


def one_of(words: Iterable[str]) -> Callable[[str], list[str]]:
    """Make what completes one of these words in a shell."""
    known = tuple(words)
    return lambda incomplete: [word for word in known if word.startswith(incomplete)]


complete_preset = one_of(presets.names())


class Command(TyperCommand):
    """A command that takes no option twice where one value alone would count, and that every error of usage names."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read what was typed.

        Raises:
            click.UsageError: it is not as it should be.
        """
        try:
            if not ctx.resilient_parsing:  # as it is for completion, and for help
                self._refuse_doubled(ctx, args)
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            raise

    def _refuse_doubled(self, ctx: click.Context, args: list[str]) -> None:
        *_, order = self.make_parser(ctx).parse_args(args=list(args))
        for option, times in Counter(order).items():
            if isinstance(option, click.Option) and times > 1 and not (option.multiple or option.is_flag):
                raise click.UsageError(f"Option '{option.opts[0]}' is given {times} times; give it once.", ctx)


@dataclass(frozen=True)
class Output:
    """Where a command says what."""

    json: bool = False
    quiet: bool = False

    def say(self, line: str) -> None:
        """Say what was done."""
        if not self.quiet:
            print(shown(line, LINE), file=sys.stderr if self.json else sys.stdout)

    def warn(self, line: str) -> None:
        """Say what is wrong, or what a person should know."""
        print(shown(line, LINE), file=sys.stderr)

    def give(self, value: object) -> None:
        """Print the document of a result, where one was asked for."""
        if self.json:
            print(document(value))


def document(value: object) -> str:
    """Give a result as JSON: a value's fields and properties by their names, paths as text, null for what is not known.

    It is plain ASCII. A file's name that is not UTF-8 comes back by Python's `json.loads` as Python has it.
    """
    return json.dumps(_plain(value), indent=2, allow_nan=False)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        own = [item.name for item in fields(value) if item.repr]
        derived = [name for name, found in vars(type(value)).items() if isinstance(found, property)]
        return {name: _plain(getattr(value, name)) for name in (*own, *derived) if not name.startswith("_")}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
