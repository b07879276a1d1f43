"""`python -m openclara` is `openclara`."""

from __future__ import annotations

from openclara.cli.app import main

if __name__ == "__main__":
    main()
