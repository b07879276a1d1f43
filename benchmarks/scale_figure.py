"""Figure and table of `docs/search.md`, from what `scale.py` wrote.

python benchmarks/scale_figure.py RESULTS.json docs/figures
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot


def main() -> None:
    """Draw, and print Markdown."""
    results = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    rows = results["rows"]
    # What came to a large index afterwards would be a second point in one place.
    draw([row for row in rows if 2 * row["added"] >= row["documents"]], Path(sys.argv[2]))
    print(f"{results['spec']}, {results['quantization']}, {results['machine']['processor']}\n")
    print("| documents | exact, CPU ms | candidates | recall@20 | CPU ms, p50 | p95 | times less |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        exact = row["exact_ms"]["cpu_p50"]
        for candidates, found in row["coarse"].items():
            ms, recall = found["ms"], f"{found['recall_at_20']:.3f}"
            if "recall_interval" in found:  # earlier results lack it
                recall += " [{:.3f}, {:.3f}]".format(*found["recall_interval"])
            print(
                f"| {row['documents']:,} | {exact:.0f} | {int(candidates):,} | "
                f"{recall} | {ms['cpu_p50']:.0f} | "
                f"{ms['cpu_p95']:.0f} | {found['less_cpu']:.1f} |"
            )


def draw(rows: list[dict[str, Any]], folder: Path) -> None:
    """Median processor time and recall by size, one line for each number of candidates."""
    figure, (above, below) = pyplot.subplots(2, 1, sharex=True, figsize=(6, 6))
    sizes = [row["documents"] for row in rows]
    above.plot(sizes, [row["exact_ms"]["cpu_p50"] for row in rows], "k--o", label="exact")
    for candidates in rows[0]["coarse"]:
        # A size that holds no more than the candidates is searched exactly.
        kept = [row for row in rows if row["documents"] > int(candidates)]
        x = [row["documents"] for row in kept]
        found = [row["coarse"][candidates] for row in kept]
        label = f"{int(candidates):,} candidates"
        above.plot(x, [one["ms"]["cpu_p50"] for one in found], "-o", label=label)
        below.plot(x, [one["recall_at_20"] for one in found], "-o", label=label)
    above.set_yscale("log")
    above.set_ylabel("CPU ms a question (median)")
    below.set_ylabel("recall@20 against exact")
    below.set_xlabel("documents")
    below.set_xscale("log")
    below.axhline(0.99, color="grey", linewidth=0.8)
    above.legend(fontsize=8)
    for axes in (above, below):
        axes.grid(alpha=0.3)
    figure.tight_layout()
    for kind in ("svg", "png"):
        figure.savefig(folder / f"search-scale.{kind}")


if __name__ == "__main__":
    main()
