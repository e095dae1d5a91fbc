"""The verb ``doctor``: whether this machine and this folder can run distilbatch. The checks are in diagnosis.py."""

from __future__ import annotations

from pathlib import Path

from distilbatch.cli.console import show, show_json
from distilbatch.cli.diagnosis import UNUSABLE, diagnose
from distilbatch.cli.failures import verb
from distilbatch.cli.options import AsJson, Debug
from distilbatch.cli.tables import cell, new_table
from distilbatch.errors import SetupError


def doctor(as_json: AsJson = False, debug: Debug = False) -> None:
    """Check this machine: versions, CPU, GPUs, the working folder, Ray. Exits 6 when something is unusable."""
    with verb(debug=debug):
        checks = diagnose(Path.cwd())
        unusable = [check.name for check in checks if check.level == UNUSABLE]
        if as_json:
            show_json({"ok": not unusable, "checks": [check.to_dict() for check in checks]})
        else:
            table = new_table("check", "", "found")
            table.columns[1].justify = table.columns[2].justify = "left"
            for check in checks:
                table.add_row(check.name, check.level, cell("\n".join(filter(None, [check.found, check.remedy]))))
            show(table)
        if unusable:
            raise SetupError(f"not usable here: {', '.join(unusable)}", remedy="see the table")
