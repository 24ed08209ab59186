"""Where the bytes of images lie: folders, archives, arrays and servers, all read in one way.

Decodes nothing; `datasets` may import it.
"""
