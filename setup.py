"""Which packages the wheel holds; everything else is in pyproject.toml.

tables/ lies at the top of the repository and becomes ofa_edge/tables in the wheel: as a top-level package it
would shadow PyTables, whose import name is `tables`.
"""

from setuptools import find_packages, setup

setup(
    packages=sorted(
        {
            *find_packages(include=["ofa_edge", "ofa_edge.*", "device_agents", "device_agents.*"]),
            "ofa_edge.tables",
            "ofa_edge.weights.embedded",
        }
    ),
    package_dir={"ofa_edge.tables": "tables"},
    package_data={
        "ofa_edge.tables": ["**/*.jsonl", "**/*.json", "*.md"],
        "ofa_edge.weights.embedded": ["*"],
        "": ["py.typed"],
    },
    include_package_data=False,
)
