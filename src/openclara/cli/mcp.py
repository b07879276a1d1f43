"""`openclara mcp`: an index for assistants that speak the Model Context Protocol."""

# Without `from __future__ import annotations`: cyclopts reads annotations when a command is called.

import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter, validators

from openclara.cli import render
from openclara.cli.loading import load_model_to_add
from openclara.cli.options import Flag, ModelOptions
from openclara.errors import ConfigError
from openclara.index.addresses import folder_of, spec_at

if TYPE_CHECKING:
    from openclara.pipeline import Clara

Port = Annotated[int, Parameter(validator=validators.Number(gte=1, lte=65535))]


def mcp(
    path: str,
    /,
    *,
    write: Flag = False,
    transport: Literal["stdio", "http"] = "stdio",
    host: Literal["127.0.0.1", "localhost", "::1"] = "127.0.0.1",
    port: Port = 8765,
    model: ModelOptions = ModelOptions(),  # noqa: B008 - frozen
) -> None:
    """Serve an index to assistants through the Model Context Protocol.

    Args:
        path: Folder of the index.
        write: Let assistants add documents; an index is made where there is none.
        transport: stdio for a client that starts this command, http for clients that connect.
        host: Address to listen at, on this machine only since there is no password.
        port: Port to listen at.
        model: Which model.
    """
    from openclara.index import LatentIndex
    from openclara.integrations.mcp import make_server

    # A new index takes its form from the model; else the model is loaded when it is needed.
    folder = folder_of(path)
    new = write and spec_at(path) is None
    maker = load_model_to_add(path, model, n_memory=None) if new else None
    with LatentIndex.open(folder, maker.latent_spec if maker else None) as index:

        def load() -> "Clara":
            if maker:
                return maker
            render.note(f"loading {model.model or index.spec.model}")
            return load_model_to_add(path, model, n_memory=None)

        server = make_server(index, load, writable=write)
        with suppress(KeyboardInterrupt):
            if transport == "stdio":
                server.run("stdio")
                return
            _check_free(host, port)
            shown = f"[{host}]" if ":" in host else host
            render.note(f"serving {path} at http://{shown}:{port}/mcp, Ctrl-C ends it")
            server.run("streamable-http", host=host, port=port)


def _check_free(host: str, port: int) -> None:
    """Say what the server library would only log before it exits.

    Raises:
        ConfigError: Another program listens there.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise ConfigError(
                f"cannot listen at {host}:{port} ({reason}); give another --port"
            ) from None
