"""What every command gets: where the daemon is, and the ways to say something."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mssclamp.control.client import Client
    from mssclamp.control.protocol import Done

WIDEST = 10_000_000
"""Columns of an output that is no terminal: nothing is cut or folded there."""


class ReaderLeftError(Exception):
    """Whoever read our output has had enough of it."""


@dataclass(frozen=True)
class App:
    """The options of `clampctl` itself. None: what the configuration says."""

    run_dir: Path
    state_dir: Path | None = None
    config: Path | None = None

    def client(self) -> Client:
        """The daemon of the run directory."""
        from mssclamp.control.client import Client

        return Client(self.run_dir)

    def say(self, text: str) -> None:
        """Lines of plain text. Raises ReaderLeftError when nobody reads them."""
        try:
            click.echo(text)
        except BrokenPipeError:
            raise ReaderLeftError from None

    def say_json(self, wire: bytes) -> None:
        """One document, as it came but for its white space."""
        import msgspec

        self.say(msgspec.json.format(wire, indent=2).decode())

    def say_done(self, done: Done, wire: bytes, *, as_json: bool) -> None:
        """What was done, and what is wrong all the same."""
        if as_json:
            self.say_json(wire)
            return
        self.say("\n".join([done.text, *(f"problem: {problem}" for problem in done.problems)]))

    def show(self, renderable: RenderableType) -> None:
        """Something of rich: with styles in a terminal, as plain text of any width elsewhere."""
        from io import StringIO

        from rich.console import Console

        if self.is_terminal:
            Console(highlight=False).print(renderable)
            return
        text = StringIO()
        Console(file=text, width=WIDEST, color_system=None, highlight=False).print(renderable)
        self.say("\n".join(line.rstrip() for line in text.getvalue().splitlines()))

    @property
    def is_terminal(self) -> bool:
        """Whether standard output is one."""
        return sys.stdout.isatty()

    @property
    def width(self) -> int:
        """Columns of the terminal."""
        return shutil.get_terminal_size().columns


pass_app = click.make_pass_decorator(App)

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

json_option: Decorator = click.option("--json", "as_json", is_flag=True, help="One JSON document instead of text.")
device_option: Decorator = click.option("--device", metavar="DEVICE", help="The device that the peer is behind.")
