"""The measured part of docs/RESULTS.md as text: one section per run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..eval.report import TEMPORAL, TITLES

Record = Mapping[str, Any]


def measured(pairs: Sequence[tuple[Any, Record | None]], has_plot: Callable[[Any], bool]) -> str:
    """Sections of (run, record) pairs; a run without a record says so."""
    parts = []
    for run, record in pairs:
        parts += [f"## {run.title}", "", run.about.strip(), ""]
        if record is None:
            parts += ["Not measured yet: `make results`.", ""]
            continue
        parts += [KINDS[run.kind](record["result"]), ""]
        if run.plot and has_plot(run):
            suffix = run.plot.rpartition(".")[2]
            parts += [f"![{run.title}](images/results_{run.name}.{suffix})", ""]
        command = " ".join(record["command"])
        parts += [f"`densefit {command}`; commit {record['commit']}, weights {record['weights']}, {record['hardware']}.", ""]
    return "\n".join(parts)


def eval_text(result: Record) -> str:
    """Tables of ``densefit eval``: means with 95 % intervals, then times and statuses."""
    table = result["table"]
    titles = {**TITLES, **TEMPORAL}
    names = [m for m in titles if any(row.get(m, [None])[0] is not None for row in table.values())]
    lines = [
        f"{result['samples']} samples; first estimate: {result.get('first_estimate', '')}; {result.get('protocol', '')}. Errors "
        "in mm, PA after a similarity transform; in brackets the 95 % bootstrap interval of the mean.",
        "",
        _row(["", *(titles[m] for m in names)]),
        _row(["---"] * (len(names) + 1)),
    ]
    lines += [_row([label, *(_cell(m, row.get(m)) for m in names)]) for label, row in table.items()]
    lines += [
        "",
        _row(["evidence", "evidence and refinement, median ms", "how fits ended", "EPE over zero's"]),
        _row(["---"] * 4),
    ]
    for label, ms in result["refine_ms_median"].items():
        ended = ", ".join(f"{k.lower()} {100 * v:.0f} %" for k, v in result["status"][label].items())
        ratio = result.get("epe_ratio", {}).get(label)
        lines.append(_row([label, f"{ms:.1f}", ended, "" if ratio is None else f"{ratio:.2f}"]))
    return "\n".join(lines)


def demo_text(result: Record) -> str:
    """Tables of ``make demo``'s summary."""
    total = result["stage_ms"]["total"]
    stages = ", ".join(f"{k} {v:.1f}" for k, v in result["stage_ms"].items() if k != "total")
    latency = f"p50 {result['latency_ms_p50']:.1f} ms, p95 {result['latency_ms_p95']:.1f} ms"
    lines = [
        _row(["", "value"]),
        _row(["---"] * 2),
        _row(["answered", f"{result['frames_out']} of {result['frames_in']}, {result['fps']:.1f} Hz"]),
        _row(["latency, image stamp to received message", latency]),
        _row(["pipeline, median", f"{total:.1f} ms: {stages}"]),
        "",
        _row(["", "MPJPE mm", "PA-MPJPE mm", "PVE mm", "reprojection px"]),
        _row(["---"] * 5),
    ]
    for key, label in (("first_estimate", f"first estimate ({', '.join(result['first_estimate_by'])})"), ("refined", "refined")):
        row = result[key]
        lines.append(_row([label, *(f"{row[m]:.1f}" for m in ("mpjpe_mm", "pa_mpjpe_mm", "pve_mm", "reproj_px"))]))
    return "\n".join(lines)


def fit_text(result: Record) -> str:
    """Times of ``densefit bench fit``: one row per problem size and method."""
    head = ["method", "points", "persons", "iterations", "ms (median)", "IQR", "PVE mm"]
    lines = [
        f"{result['clock']} clock, {result['threads']} thread, {result['repeats']} repeats.",
        "",
        _row(head),
        _row(["---"] * 7),
    ]
    for r in result["rows"]:
        numbers = [f"{r['ms_median']:.2f}", f"{r['ms_iqr']:.2f}", f"{r['pve_mm']:.1f}"]
        lines.append(_row([r["method"], str(r["points"]), str(r["persons"]), str(r["iterations"]), *numbers]))
    return "\n".join(lines)


def inputs_text(result: Record) -> str:
    """Ablation and sweeps of ``densefit train evaluate``: one row per condition."""
    people = next(iter(result["ablation"].values()))["people"]
    lines = [
        f"{people:.0f} labelled people. EPE of displacements over visible cells; differences to the undisturbed condition, "
        "person by person, with the 95 % interval of their mean.",
        "",
        _row(["", "EPE crop px", "EPE over zero's", "EPE more, px", "PVE mm, refined from the start's", "PVE more, mm"]),
        _row(["---"] * 6),
    ]
    sweeps = dict(result["sweeps"])
    for name, row in {**result["ablation"], **sweeps.pop("reference")}.items():
        lines.append(_condition(name, row))
    for sweep, rows in sweeps.items():
        lines += [_condition(f"{sweep.replace('_', ' ')} {level}", row) for level, row in rows.items()]
    return "\n".join(lines)


def _condition(name: str, row: Record) -> str:
    more = {
        unit: f"{row[f'loss_{unit}']:+.{digits}f} [{row[f'loss_{unit}_low']:+.{digits}f}, {row[f'loss_{unit}_high']:+.{digits}f}]"
        for unit, digits in (("px", 3), ("mm", 1))
    }
    refined = f"{row['pve_mm']:.1f} from {row['start_pve_mm']:.1f}"
    return _row([name, f"{row['epe_px']:.2f}", f"{row['epe_ratio']:.2f}", more["px"], refined, more["mm"]])


def covariance_text(result: Record) -> str:
    """Rows of ``densefit bench covariance``: coverage, stated and measured errors."""
    probabilities = list(next(iter(result["rows"].values()))["inside"])
    lines = [
        f"{result['sequences']} sequences; first estimate: {result['first_estimate']}. Share of joints within ellipsoids of a "
        "stated probability; median of the squared normalised error over the one expected (1 is right); root mean square errors "
        "along the camera's x, y, z.",
        "",
        _row(["", "frames", *(f"inside {100 * float(p):g} %" for p in probabilities), "median", "stated mm", "measured mm"]),
        _row(["---"] * (5 + len(probabilities))),
    ]
    for name, row in result["rows"].items():
        inside = [f"{100 * row['inside'][p]:.0f} %" for p in probabilities]
        errors = [", ".join(f"{v:.0f}" for v in row[k]) for k in ("stated_mm", "measured_mm")]
        lines.append(_row([name, str(row["people_frames"]), *inside, f"{row['median_over_expected']:.2f}", *errors]))
    return "\n".join(lines)


def tracked_text(result: Record) -> str:
    """Rows of ``densefit bench tracked``: first estimates and refined, and what refinement changes."""
    columns = {"pve_mm": "PVE mm", "mpjpe_mm": "MPJPE mm", "pa_mpjpe_mm": "PA-MPJPE mm", "reproj_px": "reprojection px",
               "absolute_mpjpe_mm": "absolute MPJPE mm", "seen_mpjpe_mm": "joints in the picture, about their middle, mm",
               "seen_px": "these, px"}  # fmt: skip
    lines = [
        f"{result['videos']} of {result['of']} videos (seeds {', '.join(map(str, result['seeds']))}); first estimate: "
        f"{result['first_estimate']}. First estimate -> refined of the images that are answered, in brackets the 95 % interval "
        "of the refined mean over videos, and the change; the last column is of all images.",
        "",
        _row(["", *columns.values(), "joints inside 95 %", "answered"]),
        _row(["---"] * (3 + len(columns))),
    ]
    for name, row in result["rows"].items():
        cells = []
        for metric in columns:
            if f"refined_{metric}" not in row:  # a record of before
                cells.append("")
                continue
            first, (mean, low, high) = row[f"first_{metric}"][0], row[f"refined_{metric}"]
            cells.append(f"{first:.1f} -> {mean:.1f} [{low:.1f}, {high:.1f}], {100 * row['change'][metric]:+.0f} %")
        lines.append(_row([name, *cells, f"{100 * row['inside_95'][0]:.0f} %", f"{100 * row['answered'][0]:.0f} %"]))
    return "\n".join(lines)


def values_text(result: Record) -> str:
    """Any record of numbers, nested or not, as two columns."""
    lines = [_row(["", "value"]), _row(["---"] * 2)]
    for name, value in _leaves(result):
        lines.append(_row([name, f"{value:.4g}" if isinstance(value, float) else str(value)]))
    return "\n".join(lines)


KINDS: dict[str, Callable[[Record], str]] = {
    "eval": eval_text, "demo": demo_text, "fit": fit_text, "inputs": inputs_text, "covariance": covariance_text,
    "tracked": tracked_text,
    "values": values_text,
}  # fmt: skip


def _leaves(node: Record, prefix: str = "") -> list[tuple[str, Any]]:
    out: list[tuple[str, Any]] = []
    for key, value in node.items():
        if isinstance(value, Mapping):
            out += _leaves(value, f"{prefix}{key}, ")
        elif isinstance(value, (int, float, str)):
            out.append((f"{prefix}{key}", value))
    return out


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(metric: str, value: Sequence[float | None] | None) -> str:
    if value is None or value[0] is None:
        return ""
    digits = 3 if metric.startswith("pck") else 2 if metric.endswith(("m_s2", "m_s3")) else 1
    mean = f"{value[0]:.{digits}f}"
    return mean if value[1] is None else f"{mean} [{value[1]:.{digits}f}, {value[2]:.{digits}f}]"
