from tests.fuzz import files, sharded, texts

TARGETS = {**texts.TARGETS, **files.TARGETS, **sharded.TARGETS}
