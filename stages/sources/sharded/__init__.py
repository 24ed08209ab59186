"""Datasets in shards: WebDataset's tars, Parquet files and Arrow files, each of many images.

A row is known by its shard and its place in it; what else a shard tells of its rows are columns.
"""
