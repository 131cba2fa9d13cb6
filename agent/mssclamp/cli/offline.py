"""`attach` and `detach` where no daemon answers: straight to the kernel and the database.

The one place where the command line touches either, and it imports them only when it comes to that.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mssclamp.control.protocol import Done
from mssclamp.errors import ConfigError, ConflictError, ForbiddenError

if TYPE_CHECKING:
    from mssclamp.cli.app import App


def detach(app: App, device: str | None) -> Done:
    """Removes every trace from one device or all, and leaves the mark that keeps clampd off."""
    from mssclamp.daemon.routes import restore
    from mssclamp.datapath.attach import detach_all
    from mssclamp.store.database import EVERY_DEVICE, Store, path_for

    with _instead_of_the_daemon(app):
        removed = detach_all(device)
        # The mark last: a database that cannot be written must not keep the programs on.
        with closing(Store.open(path_for(_state_dir(app)))) as store:
            routes = restore(store, device)
            store.set_detached(device or EVERY_DEVICE, True)
    removed += routes.changed
    what = f"removed {', '.join(removed)}" if removed else "nothing was attached"
    back = f"clampctl attach {device}" if device else "clampctl attach"
    return Done(text=f"no daemon; {what}; kept off until `{back}`", problems=routes.problems)


def attach(app: App, device: str | None) -> Done:
    """Takes the mark of `detach` away."""
    from mssclamp.store.database import EVERY_DEVICE, Store, path_for

    with _instead_of_the_daemon(app), closing(Store.open(path_for(_state_dir(app)))) as store:
        if device is not None and EVERY_DEVICE in store.detached():
            fix = "`clampctl attach` lets it back, then detach the rest"
            raise ConflictError("clampd is detached from everything", fix=fix)
        store.set_detached(device or EVERY_DEVICE, False)
    return Done(text=f"no daemon; kept off no longer: {device or 'any device'}; clampd attaches when it starts")


def wire(done: Done) -> bytes:
    """What was done as the daemon would have told it."""
    return msgspec.json.encode(done)


@contextmanager
def _instead_of_the_daemon(app: App) -> Iterator[None]:
    """As root, in a namespace whose daemon is not there and cannot start meanwhile."""
    from mssclamp.daemon.namespace import claim

    if os.geteuid() != 0:
        raise ForbiddenError("without the daemon only root may do this", fix="use sudo")
    try:
        claimed = claim()
    except ConflictError as error:
        socket = app.client().path
        raise ConflictError(f"{error.message}, but not on {socket}", fix="name its directory with --run-dir") from None
    with closing(claimed):
        yield


def _state_dir(app: App) -> Path:
    """As the daemon would choose it; a configuration that cannot be read must not keep the programs on."""
    from mssclamp import config

    if app.state_dir is not None:
        return app.state_dir
    try:
        return Path(config.load(app.config).state_dir)
    except ConfigError:
        return Path(config.Settings().state_dir)
