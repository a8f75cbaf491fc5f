"""Print what `predict` says of published steps beside what was measured, and beside a constant.

The constant is "every run of the table uses its median share of peak". Nothing was fitted to these rows; one constant,
of unfused attention, comes from a layer's time in Korthikanti et al. 2022, Table 4 (llmlab/cost/compute.py).

Run: python benchmarks/validate_predictions.py
"""

from __future__ import annotations

from llmlab.cost.published import Published, read_published, score

TABLES = {
    "megatron2021": "Narayanan et al. 2021, Table 1 (A100, 32 to 3072 GPUs)",
    "korthikanti2022": "Korthikanti et al. 2022, Table 5 (A100, 8 and 64 GPUs)",
    "zero_bubble": "Qi et al. 2024, Table 4, 1F1B (A100, 8 to 32 GPUs)",
}


def line(row: Published) -> str:
    p = row.predict()
    memory = (
        f"{row.memory_gib:6.0f} {p.memory_bytes / 2**30:6.1f}"
        if row.memory_gib
        else f"     - {p.memory_bytes / 2**30:6.1f}"
    )
    return (
        f"{row.label:38} {row.seconds:8.2f} {p.seconds:8.2f} {p.seconds / row.seconds - 1:+7.1%} {memory}  "
        f"{p.verdict:12} {p.mfu:5.1%}"
    )


def main() -> None:
    for table, title in TABLES.items():
        rows = read_published(table)
        print(f"\n{title}")
        print(f"{'':38} measured  modelled   error    GiB  model  verdict        MFU")
        print("\n".join(line(row) for row in rows))
        found = score(rows)
        memory = "" if found.memory_error is None else f"; memory {found.memory_error:.1%}"
        print(
            f"mean error {found.error:.1%} (bias {found.bias:+.1%}, worst {found.worst:.1%}{memory}); "
            f"constant utilisation {found.constant:.1%}"
        )


if __name__ == "__main__":
    main()
