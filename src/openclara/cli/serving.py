"""`openclara serve` and `openclara keys`: an HTTP service over indexes, and who may use it."""

# Without `from __future__ import annotations`: cyclopts reads annotations when a command is called.

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter, validators

from openclara.cli import render
from openclara.cli.loading import load_model
from openclara.cli.options import AtLeastOne, Json, ModelOptions
from openclara.errors import ConfigError
from openclara.index.addresses import folder_of

if TYPE_CHECKING:
    import socket


NEEDED = {
    "fastapi": "fastapi",
    "uvicorn": "uvicorn",
    "python_multipart": "python-multipart",
    "prometheus_client": "prometheus-client",
}
"""Modules of the extra, and the packages they are in."""

Port = Annotated[int, Parameter(validator=validators.Number(gte=0, lte=65535))]
Seconds = Annotated[float, Parameter(validator=validators.Number(gt=0))]
Names = Annotated[tuple[str, ...], Parameter(negative="", show_default=False)]
MIB = 2**20


def serve(
    *paths: str,
    root: Path | None = None,
    host: str = "127.0.0.1",
    port: Port = 8080,
    keys: Path | None = None,
    cors: Names = (),
    allow_host: Names = (),
    rewrite: Literal["last", "conversation"] = "last",
    model: ModelOptions = ModelOptions(),  # noqa: B008 - frozen
    n_memory: AtLeastOne | None = None,
    max_batch: AtLeastOne = 32,
    max_waiting: AtLeastOne = 64,
    timeout: Seconds = 120.0,
    drain: Seconds = 30.0,
    max_upload: AtLeastOne = 64,
) -> None:
    """Serve indexes over HTTP: a page, an API, and what clients of OpenAI's API call.

    All of them must be of one model. Ctrl-C finishes what runs; a second one cuts it.

    Args:
        paths: Folders of indexes, each served under its name without .idx.
        root: Folder in which every index is served, and new ones are made.
        host: Address to listen at; any but this machine's own needs --keys.
        port: Port to listen at; 0 takes any that is free.
        keys: File of API keys, see `openclara keys`.
        cors: Origin of a web page that may call the service, such as https://example.org.
        allow_host: Further host name that a service without keys may be addressed by.
        rewrite: What a chat searches for: its last question, or that with names of earlier turns.
        model: Which model.
        n_memory: Latents for each passage, in a new index; the model's own number if left out.
        max_batch: Questions that are answered together.
        max_waiting: Questions that wait for their turn; beyond it they are refused.
        timeout: Seconds that an answer may take, waiting included.
        drain: Seconds that what runs may take after Ctrl-C.
        max_upload: Largest upload, in MiB.
    """
    _check_installed()
    from openclara.server.library import Library, shared_spec
    from openclara.server.running import listen
    from openclara.server.settings import Limits, Settings
    from openclara.server.starting import check_settings, known_hosts
    from openclara.server.starting import serve as run

    folders = [folder_of(path) for path in paths]
    if root is not None:
        root.mkdir(exist_ok=True)
    settings = Settings(
        limits=Limits(upload_bytes=max_upload * MIB),
        keys=keys,
        hosts=known_hosts(host, allow_host, with_keys=keys is not None),
        origins=cors,
        rewrite=rewrite,
        state=None if root is None else root / ".openclara",
        drain_s=drain,
    )
    # All that can be wrong is told before the model is loaded.
    check_settings(host, settings)
    spec = shared_spec(folders, root)
    if spec is None and not paths and root is None:
        raise ConfigError("there is nothing to serve; give an index, or --root with a folder")
    with listen(host, port) as sock:
        from openclara.model.zoo import DEFAULT_MODEL
        from openclara.server.engine import ClaraEngine

        name = model.model or (DEFAULT_MODEL if spec is None else spec.model)
        clara = load_model(name, model, n_memory=n_memory)
        library = Library(clara.latent_spec, folders, root)
        engine = ClaraEngine(clara, max_batch=max_batch, max_waiting=max_waiting, timeout_s=timeout)
        _announce(library.names(), host, sock)
        run(engine, library, settings, sock)


def add(
    file: Path, name: str, /, *, scope: Literal["read", "write"] = "read", as_json: Json = False
) -> None:
    """Make an API key and print it; the file keeps only its hash.

    Args:
        file: File of API keys, made where there is none.
        name: Whose key it is; the log of the service names it.
        scope: read asks and looks, write also changes indexes.
        as_json: Print JSON instead.
    """
    from openclara.server.keys import KeyFile

    secret = KeyFile(file).add(name, scope)
    if as_json:
        render.json_line({"name": name, "scope": scope, "key": secret})
        return
    render.result(secret)
    render.note("keep it now: it cannot be shown again")


def list_keys(file: Path, /, *, as_json: Json = False) -> None:
    """Show whose keys there are.

    Args:
        file: File of API keys.
        as_json: Print JSON instead.
    """
    from openclara.server.keys import KeyFile

    keys = KeyFile(file).keys()
    if as_json:
        shown = [{"name": key.name, "scope": key.scope, "created": key.created} for key in keys]
        render.json_line({"keys": shown})
    else:
        render.fields([(key.name, f"{key.scope}, since {key.created}") for key in keys])


def remove(file: Path, name: str, /) -> None:
    """Make an API key worthless, from the next request on.

    Args:
        file: File of API keys.
        name: Whose key.
    """
    from openclara.server.keys import KeyFile

    KeyFile(file).remove(name)
    render.result(f"the key {name} is removed")


def _check_installed() -> None:
    for module, package in NEEDED.items():
        try:
            importlib.import_module(module)
        except ImportError:
            raise ConfigError(
                f"the service needs {package}; run pip install 'openclara[server]'"
            ) from None


def _announce(names: list[str], host: str, sock: "socket.socket") -> None:
    port = sock.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    what = ", ".join(names) or "no index yet"
    render.result(f"serving {what} at http://{shown}:{port}")
    render.note("Ctrl-C finishes what runs, twice cuts it")
