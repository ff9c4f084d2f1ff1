"""``python -m densefit_ros.bench.fit_plot RESULT.json [RESULT.json ...] PICTURE.png``: the benchmark's results as a picture."""

from __future__ import annotations

import json
import sys
from pathlib import Path

STYLE = {
    "lm": ("#2a6fb0", "ours, 4 iterations"),
    "smplify_adam": ("#d9822b", "SMPLify, Adam"),
    "smplify_lbfgs": ("#4b9b57", "SMPLify-X, L-BFGS"),
}


def plot(rows: list[dict], path: Path) -> None:
    """Time against points for one person, and against persons at 600 points, both logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(8.2, 3.4), dpi=110, sharey=True)
    for method, (colour, label) in STYLE.items():
        order = ("300", "600", "1000", "all")
        one = sorted((r for r in rows if r["method"] == method and r["persons"] == 1), key=lambda r: order.index(r["points"]))
        many = sorted((r for r in rows if r["method"] == method and r["points"] == "600"), key=lambda r: r["persons"])
        left.plot(range(len(one)), [r["ms_median"] for r in one], "o-", color=colour, label=label)
        left.set_xticks(range(len(one)), [r["points"] for r in one])
        right.plot([r["persons"] for r in many], [r["ms_median"] for r in many], "o-", color=colour)
    left.set_xlabel("surface points, 1 person")
    right.set_xlabel("persons, 600 points each")
    left.set_ylabel("time of a fit, ms")
    left.set_yscale("log")
    left.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.grid(True, which="major", axis="y", alpha=0.3)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> int:
    """Read results of ``densefit bench fit --out`` and draw it."""
    *sources, target = (Path(a) for a in (sys.argv[1:] if arguments is None else arguments))
    rows = [row for source in sources for row in json.loads(source.read_text())["rows"]]
    unique = {(r["method"], r["points"], r["persons"]): r for r in rows}  # of equal sizes the last file's counts
    plot(list(unique.values()), target)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
