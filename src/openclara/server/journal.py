"""What is remembered of jobs, one small file for each, also when the process is killed."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from openclara.errors import ConfigError
from openclara.index.layout import write_durably
from openclara.server import logs
from openclara.server.jobs import STATUSES, Job, interrupted, now

if TYPE_CHECKING:
    from typing import Self

KEPT = 500
"""Jobs that are remembered; the oldest that have ended are forgotten first."""

ID = re.compile(r"[0-9a-f]{16}")
TEMPORARY = ".tmp"


class Journal:
    """Jobs by id, oldest first, in memory and in a folder."""

    def __init__(self, folder: Path | None) -> None:
        """Read what an earlier process left.

        A job that had not ended then is reported as failed: its committed documents are in the
        index, the others are not, and what was uploaded is gone.

        Args:
            folder: Where; None is a temporary folder, gone with `close`.

        Raises:
            ConfigError: Another process uses the folder.
        """
        self._temporary = folder is None
        self.folder = Path(tempfile.mkdtemp(prefix="openclara-")) if folder is None else folder
        self._files = self.folder / "jobs"
        self.uploads = self.folder / "uploads"
        self._files.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.folder / "serve.lock", timeout=0)
        try:
            self._lock.acquire()
        except Timeout:
            raise ConfigError(
                f"another service uses {self.folder.parent}; stop it, or give another --root"
            ) from None
        shutil.rmtree(self.uploads, ignore_errors=True)
        self.uploads.mkdir()
        self.jobs: dict[str, Job] = {}
        for job in self._read():
            self.jobs[job.id] = job
            if not job.ended:
                job.status = "failed"
                job.error = interrupted(job).body["error"]
                job.finished = now()
                self.write(job)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def write(self, job: Job) -> None:
        """Remember a job as it stands; whole or not at all."""
        self.jobs[job.id] = job
        content = json.dumps(asdict(job)).encode()
        write_durably(self._files / f"{job.id}.json", content, temporary_suffix=TEMPORARY)
        ended = [one for one in self.jobs.values() if one.ended]
        for old in ended[: max(0, len(self.jobs) - KEPT)]:
            (self._files / f"{old.id}.json").unlink(missing_ok=True)
            del self.jobs[old.id]

    def close(self) -> None:
        """Let another process have the folder."""
        shutil.rmtree(self.uploads, ignore_errors=True)
        self._lock.release()
        if self._temporary:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _read(self) -> list[Job]:
        jobs = []
        names = {one.name for one in fields(Job)}
        for path in self._files.glob("*.json"):
            try:
                content = json.loads(path.read_bytes())
                if set(content) != names or content["status"] not in STATUSES:
                    raise ValueError(path)
                if not ID.fullmatch(content["id"]) or path.stem != content["id"]:
                    raise ValueError(path)
                jobs.append(Job(**content))
            except (ValueError, TypeError, AttributeError):
                logs.event("job forgotten", reason="its file is damaged")
        return sorted(jobs, key=lambda job: job.created)
