"""One step each: list, label, decode, run a backbone, fit a head. No cache, no scheduler."""
