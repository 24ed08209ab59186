"""What tests share: builders of photos, files, caches and servers, and where the checkout lies."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
