"""Sums the amounts of a CSV file by category, to standard output and to /output/report.json."""

from __future__ import annotations

import csv
import json
import sys
from decimal import Decimal


def main(path: str) -> int:
    totals: dict[str, Decimal] = {}
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            totals[row["category"]] = totals.get(row["category"], Decimal(0)) + Decimal(row["amount"])
    for category, total in sorted(totals.items()):
        print(f"{category:<12}{total:>12}")
    with open("/output/report.json", "w", encoding="utf-8") as file:
        json.dump({category: str(total) for category, total in totals.items()}, file, sort_keys=True)
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: report.py FILE.csv")
    sys.exit(main(sys.argv[1]))
