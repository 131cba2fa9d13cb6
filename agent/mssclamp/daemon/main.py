"""`clampd`: arguments, resources in order, the loop."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

from mssclamp import __version__, config
from mssclamp.config import Config
from mssclamp.errors import ClampdError, DatapathError

T = TypeVar("T")

LOG_LEVELS = ("debug", "info", "warning", "error")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the daemon in the foreground; returns the exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=options.log_level.upper(), stream=sys.stderr, format="clampd: %(levelname)s: %(message)s")
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        logging.addLevelName(level, logging.getLevelName(level).lower())
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.getLogger("pyroute2").setLevel(logging.WARNING)
    try:
        settings = config.load(options.config)
        if options.check:
            print(f"the configuration is valid ({_sources(settings)})")
            return 0
        _run(settings, lambda: config.load(options.config), options.run_dir, options.state_dir)
    except ClampdError as error:
        for line in str(error).splitlines():
            print(f"clampd: {line}", file=sys.stderr)
        return 1
    return 0


def _run(settings: Config, load_config: Callable[[], Config], run_dir: Path | None, state_dir: Path | None) -> None:
    if os.geteuid() != 0:
        raise DatapathError("clampd changes the kernel's packet path", fix="start it as root")
    # Heavy imports after the checks that need none of them: --check and --help stay quick.
    from mssclamp.daemon import namespace
    from mssclamp.daemon.daemon import Daemon
    from mssclamp.daemon.loop import run
    from mssclamp.datapath.attach import Tc
    from mssclamp.datapath.links import ChangeMonitor
    from mssclamp.store.database import Store, path_for

    with ExitStack() as resources:
        claimed = resources.enter_context(namespace.claim())
        monitor = ChangeMonitor()
        resources.callback(monitor.close)
        worker = resources.enter_context(ThreadPoolExecutor(1, thread_name_prefix="daemon"))

        def there(call: Callable[[], T]) -> T:
            """In the worker's thread, where the daemon and what it holds live."""
            return worker.submit(call).result()

        store = there(lambda: Store.open(path_for(state_dir or Path(settings.state_dir))))
        resources.callback(there, store.close)
        tc = there(Tc)
        resources.callback(there, tc.close)
        daemon = there(lambda: Daemon(settings, load_config, store, tc, worker.submit))
        resources.callback(there, daemon.close)
        socket_path = (run_dir or Path(settings.run_dir)) / "clampd.sock"
        asyncio.run(run(daemon, worker, socket_path, monitor, claimed))


def _sources(settings: Config) -> str:
    return ", ".join(map(str, settings.source)) or "no file: defaults"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="clampd",
        description="Gives every peer of this gateway a path MTU of its own. Runs in the foreground, in the network "
        "namespace it is started in; SIGHUP reads the configuration again, SIGTERM stops it. What it attached stays in "
        "force when it stops: `clampctl detach` takes it away.",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="default: /etc/clampd/clampd.toml, if it is there")
    parser.add_argument(
        "--run-dir", type=Path, metavar="DIR", help="where the control socket is (default: /run/clampd)"
    )
    parser.add_argument(
        "--state-dir", type=Path, metavar="DIR", help="what outlives restarts (default: /var/lib/clampd)"
    )
    parser.add_argument("--log-level", choices=LOG_LEVELS, default="info", metavar="L", help=", ".join(LOG_LEVELS))
    parser.add_argument("--check", action="store_true", help="say whether the configuration is valid, and exit")
    parser.add_argument("--version", action="version", version=f"clampd {__version__}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
