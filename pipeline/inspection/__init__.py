"""What a file or folder of ours is made of, and what works on this machine: tables.

Stands on `experiments`, `sweeps`, `models`, `export`, `extraction` and below; the command line
imports it.
"""
