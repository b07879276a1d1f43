"""A whole synthesis with a hosted teacher whose server fails in every way, killed and run again."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from stand_in import StandIn

from openclara.synthesis.run import synthesize

TESTS = Path(__file__).parent.parent
RECORDS = [f"stage{n}.{part}.jsonl.gz" for n in (1, 2, 3) for part in ("train", "held_out")]
RATES = {
    "429": 0.04, "500": 0.04, "503": 0.02, "drop": 0.04, "cut_body": 0.04, "bad_body": 0.04,
    "html": 0.02, "empty": 0.02, "broken_json": 0.05, "timeout": 0.02,
}  # fmt: skip
CONCURRENCY = 4

RUN = """
import sys
from openclara.config import SynthesisConfig
from openclara.synthesis.run import synthesize
synthesize(SynthesisConfig.model_validate_json(sys.argv[1]))
"""


def hosted(recipe, server, output):
    teacher = {
        "kind": "openai",
        "model": "stand-in",
        "base_url": server.url,
        "api_key_env": "NO_SUCH_KEY",
        "concurrency": CONCURRENCY,
        "timeout_s": 2.0,
        "max_attempts": 8,
    }
    return recipe(output, teacher=teacher, limit=8)


def records(folder):
    return {name: (folder / name).read_bytes() for name in RECORDS}


def test_faults_and_kills_change_no_record_and_pay_for_hardly_anything_twice(recipe, tmp_path):
    with StandIn() as server:
        synthesize(hosted(recipe, server, "calm"))
        calm = server.answers
    dice = random.Random(7)
    with StandIn(rates=RATES, most_faults=2, hang_s=4.0) as server:
        config = hosted(recipe, server, "stormy")
        n_kills = 0
        while True:
            process = subprocess.Popen([sys.executable, "-c", RUN, config.model_dump_json()])
            enough = len(server.requests) + dice.randrange(20, 60)
            while process.poll() is None and (n_kills == 3 or len(server.requests) < enough):
                time.sleep(0.02)
            if process.poll() is not None:
                break
            process.send_signal(signal.SIGKILL)
            process.wait()
            n_kills += 1
        assert (process.returncode, n_kills) == (0, 3)
        assert len(server.faults) >= 6
        # Only what was under way when it was killed may have been answered for nothing.
        assert server.answers.keys() == calm.keys()
        twice = (server.answers - calm).total()
        assert twice <= n_kills * CONCURRENCY + server.faults["timeout"]
    assert records(tmp_path / "stormy") == records(tmp_path / "calm")
