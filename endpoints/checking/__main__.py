"""`python -m endpoints.checking FOLDER…`: prints what is found wrong with each, as JSON."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from dataclasses import asdict
from pathlib import Path

import yaml

from endpoints.checking.core import CoreConfig
from endpoints.checking.finding import Finding
from endpoints.checking.rendered import UserConfig
from endpoints.checking.template import Template


def check(folder: Path, variables: dict[str, object], functions: Path | None, identity: str | None) -> list[Finding]:
    """Everything wrong with an endpoint directory."""
    core = CoreConfig(folder, identity)
    template = Template(core, variables)
    return [*core.findings, *template.findings, *UserConfig(core, template, functions).findings]


def main() -> None:
    """Reads the command line, and prints one list, which has a list for each folder."""
    parser = argparse.ArgumentParser(prog="python -m endpoints.checking")
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--functions", type=Path)
    parser.add_argument("--identity")
    options = parser.parse_args()
    variables = {name: yaml.safe_load(value) for name, _, value in (text.partition("=") for text in options.set)}
    logging.disable(logging.CRITICAL)  # the agent's loaders log what they raise
    found = [check(folder, variables, options.functions, options.identity) for folder in options.folders]
    print(json.dumps([[asdict(finding) for finding in of_one] for of_one in found]))
    sys.stdout.flush()
    os._exit(0)  # engines, built to be checked, have left threads


if __name__ == "__main__":
    main()
