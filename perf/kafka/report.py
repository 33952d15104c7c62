"""Medians of the lines that side_by_side.py wrote, and how they stand to the bars."""

import json
import statistics


def lines_of(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def table(path):
    """One line for each figure: medians, runs, durability, ratio to the bar."""
    lines = lines_of(path)
    rows = [
        ("what", "martlet (every batch synced)", "kafka (no sync)", "kafka (flush.messages=1)", "bar", "")
    ]
    for client, size in keys(lines, "produce", "client", "bytes"):
        of = {"measure": "produce", "client": client, "bytes": size}
        name = f"produce {client} {size} B, records/s"
        rows.append(row(lines, name, of, "rate", [("kafka", 1.0, True), ("kafka-flush-1", 5.0, True)]))
        rows.append(row(lines, f"  broker CPU s/GiB", of, "cpu_s_gib", [("kafka", 0.5, False)], 2))
    for (rate,) in keys(lines, "rate", "rate"):
        for kind in ["produce", "end_to_end"]:
            for quantile in ["p50", "p99", "p99.9"]:
                rows.append(added(lines, rate, kind, quantile))
    for where, gib in keys(lines, "read", "where", "gib"):
        of = {"measure": "read", "where": where, "gib": gib}
        bar = 1.5 if where == "disk" else 1.0
        rows.append(row(lines, f"read {gib:g} GiB from {where}, MB/s", of, "mb_s", [("kafka", bar, True)]))
        rows.append(row(lines, f"  broker CPU s/GiB", of, "cpu_s_gib", [("kafka", 0.5, False)], 2))
    bare = values(lines, {"measure": "bare-reads"}, "mb_s")
    if bare:
        rows.append(("  bare direct reads, MB/s", shown(bare, 0), "", "", "", ""))
    rows.append(
        row(
            lines,
            "start to first acknowledgement, s",
            {"measure": "first"},
            "seconds",
            [("kafka", 0.1, False)],
            3,
        )
    )
    rows.append(
        row(
            lines,
            "resident at idle, 1,000 partitions, MiB",
            {"measure": "idle"},
            "resident_mib",
            [("kafka", 0.2, False)],
        )
    )
    rows = [row for row in rows if any(row[1:4])]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [rows[0], ("---",) * 6, *rows[1:]])


def keys(lines, measure, *names):
    return sorted({tuple(line[name] for name in names) for line in lines if line["measure"] == measure})


def values(lines, of, field):
    return [
        line[field]
        for line in lines
        if all(line.get(name) == wanted for name, wanted in of.items()) and field in line
    ]


def shown(found, digits):
    return f"{statistics.median(found):,.{digits}f} ({len(found)} runs)" if found else ""


def row(lines, name, of, field, bars, digits=0):
    """`bars`: broker, factor, and whether at least so much of it is asked for, or at most."""
    found = {
        broker: values(lines, {**of, "broker": broker}, field)
        for broker in ["martlet", "kafka", "kafka-flush-1"]
    }
    asked, met = [], []
    for broker, factor, at_least in bars:
        if found["martlet"] and found[broker]:
            ratio = statistics.median(found["martlet"]) / statistics.median(found[broker])
            asked.append(f"{'≥' if at_least else '≤'} {factor:g} × {broker}")
            met.append(
                f"{ratio:.2f} {'met' if (ratio >= factor if at_least else ratio <= factor) else 'missed'}"
            )
    cells = [shown(found[broker], digits) for broker in ["martlet", "kafka", "kafka-flush-1"]]
    return (name, *cells, ", ".join(asked), ", ".join(met))


def added(lines, rate, kind, quantile):
    """Latency over that of the same client against the null broker, of medians."""

    def of(broker):
        found = [
            line[kind][quantile]
            for line in lines
            if line["measure"] == "rate" and line["rate"] == rate and line["broker"] == broker
        ]
        return (statistics.median(found), len(found)) if found else None

    null = of("null")
    cells, over = [], {}
    for broker in ["martlet", "kafka", "kafka-flush-1"]:
        found = of(broker)
        if found and null:
            over[broker] = found[0] - null[0]
            cells.append(f"{over[broker]:,.0f} ({found[0]:,.0f} − {null[0]:,.0f}; {found[1]} runs)")
        else:
            cells.append("")
    met = ""
    if "martlet" in over and over.get("kafka", 0) > 0:
        ratio = over["martlet"] / over["kafka"]
        met = f"{ratio:.2f} {'met' if ratio <= 0.5 else 'missed'}"
    name = f"{kind.replace('_', ' ')} at {rate:,}/s, {quantile} over null, us"
    return (name, *cells, "≤ 0.5 × kafka", met)
