"""Which packages a wheel holds; all else is in pyproject.toml."""

from setuptools import find_packages, setup

# In a checkout pipeline, stages and cache lie beside permafrost; installed, inside it.
folders = find_packages(include=["pipeline*", "stages*", "cache*"])

setup(
    packages=["permafrost", *(f"permafrost.{folder}" for folder in folders)],
    package_dir={f"permafrost.{name}": name for name in ("pipeline", "stages", "cache")},
)
