from tests.fuzz import files, texts

TARGETS = {**texts.TARGETS, **files.TARGETS}
