"""Composes stages and cache; the only place where both meet."""
