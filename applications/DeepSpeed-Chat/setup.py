"""`pip install -e .` here installs the package that the root's pyproject.toml describes."""

import os
from pathlib import Path

from setuptools import setup

os.chdir(Path(__file__).resolve().parents[2])
setup()
