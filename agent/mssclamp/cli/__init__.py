"""`clampctl`: looks at the daemon and tells it what to do.

Importing this package is cheap: whatever is heavy is imported by the command that needs it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click

from mssclamp import __version__
from mssclamp.cli.app import App, ReaderLeftError
from mssclamp.cli.attach import attach, detach
from mssclamp.cli.mode import confirm, enforce, observe
from mssclamp.cli.peers import peers, show
from mssclamp.cli.pin import forget, pin, unpin
from mssclamp.cli.probe import probe
from mssclamp.cli.reload import reload
from mssclamp.cli.status import status
from mssclamp.cli.top import top
from mssclamp.cli.watch import watch
from mssclamp.errors import ClampdError, NoDaemonError

DONE, FAILED, USAGE, NO_DAEMON = 0, 1, 2, 3
INTERRUPTED = 130  # 128 + SIGINT, as a shell tells it


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--run-dir",
    type=click.Path(path_type=Path),
    envvar="CLAMPD_RUN_DIR",
    default=Path("/run/clampd"),
    show_default=True,
    show_envvar=True,
    help="Where the daemon's socket is.",
)
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path),
    envvar="CLAMPD_STATE_DIR",
    show_envvar=True,
    help="Where the daemon's database is, for what works without the daemon.  [default: from the configuration]",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    envvar="CLAMPD_CONFIG",
    show_envvar=True,
    help="The daemon's configuration, for what works without the daemon.  [default: /etc/clampd/clampd.toml]",
)
@click.version_option(__version__, prog_name="clampctl", message="%(prog)s %(version)s")
@click.pass_context
def clampctl(context: click.Context, run_dir: Path, state_dir: Path | None, config: Path | None) -> None:
    """Gives every peer of a gateway an MTU of its own.

    PEER is a name, an id, a public key or its first characters, or an inner address.

    Exit status: 0 done, 1 failed, 2 wrong usage, 3 no daemon there.
    """
    context.obj = App(run_dir, state_dir, config)


clampctl.add_command(status)
clampctl.add_command(peers)
clampctl.add_command(show)
clampctl.add_command(top)
clampctl.add_command(watch)
clampctl.add_command(enforce)
clampctl.add_command(observe)
clampctl.add_command(confirm)
clampctl.add_command(pin)
clampctl.add_command(unpin)
clampctl.add_command(probe)
clampctl.add_command(forget)
clampctl.add_command(attach)
clampctl.add_command(detach)
clampctl.add_command(reload)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs one command and exits with its status."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="replace")  # a terminal that lacks a character still shows the rest
    sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    try:
        code = clampctl.main(arguments, prog_name="clampctl", standalone_mode=False)
        return code if isinstance(code, int) else DONE
    except click.UsageError as error:
        error.show()
        return USAGE
    except NoDaemonError as error:
        return _fail(str(error), NO_DAEMON)
    except ClampdError as error:
        return _fail(str(error), FAILED)
    except click.ClickException as error:
        return _fail(error.format_message(), FAILED)
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except ReaderLeftError:
        return _reader_left()
    except OSError as error:
        return _fail(f"{error.filename or 'output'}: {error.strerror}", FAILED)


def _fail(message: str, code: int) -> int:
    """One line; a configuration with several mistakes has one for each."""
    for line in message.splitlines():
        click.echo(f"clampctl: {line}", err=True)
    return code


def _reader_left() -> int:
    """Whoever read our output has enough of it: no complaint, not even from the interpreter's last flush."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return DONE
