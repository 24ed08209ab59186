"""What comes with images besides folders and tables: boxes, COCO's JSON, columns of shards."""
