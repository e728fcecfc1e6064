"""Which packages the wheel holds; everything else is in pyproject.toml.

tables/ lies at the top of the repository and becomes ofa_edge/tables in the wheel: as a top-level package it
would shadow PyTables, whose import name is `tables`. docs/examples/ becomes ofa_edge/examples, for `bundle example`.
"""

from pathlib import Path

from setuptools import find_packages, setup

DATA = {
    "ofa_edge.tables": "tables",
    "ofa_edge.examples": "docs/examples",
    "ofa_edge.weights.embedded": "ofa_edge/weights/embedded",
}

setup(
    packages=sorted(
        {
            *find_packages(include=["ofa_edge", "ofa_edge.*", "device_agents", "device_agents.*"]),
            *(package for package, folder in DATA.items() if Path(folder).is_dir()),
        }
    ),
    package_dir={"ofa_edge.tables": "tables", "ofa_edge.examples": "docs/examples"},
    package_data={
        "ofa_edge.tables": ["**/*.jsonl", "**/*.json", "*.md"],
        "ofa_edge.examples": ["*"],
        "ofa_edge.weights.embedded": ["*"],
        "": ["py.typed"],
    },
    include_package_data=False,
)
