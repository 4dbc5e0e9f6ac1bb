"""Parts that start Dagster's webserver and daemon; ``dagster dev`` cannot be customised.

This is a module of its own because only ``fer ui`` needs it.
"""

from dagster._cli.proxy_server_manager import ProxyServerManager
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import ModuleTarget, WorkspaceFileTarget
from dagster._serdes import serialize_value

__all__ = [
    # An attribute of a module as the one code location.
    "ModuleTarget",
    # One code server for the webserver and the daemon, which restarts it when it ends.
    "ProxyServerManager",
    # What a workspace file names.
    "WorkspaceFileTarget",
    # The one argument of the webserver's class, which makes its ASGI app.
    "WorkspaceProcessContext",
    # The daemon is given the instance as text.
    "serialize_value",
]
