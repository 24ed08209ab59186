"""What the system refuses, told from what is wrong with a file: that alone is damage."""

from __future__ import annotations

import errno
import os
import re

# What this process has used up, whichever file it was about to open.
SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
# The exit status of a run that another one of the same may get past: EX_TEMPFAIL of sysexits.h.
TRY_AGAIN_STATUS = 75
# What may be better later: room on the disk, what others use up, disks, file servers, networks.
PASSING = {
    *SHORTAGES,
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EAGAIN, errno.EBUSY, errno.ENOLCK),
    *(errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOBUFS, errno.ENETDOWN, errno.ENETUNREACH),
    *(errno.ENETRESET, errno.ECONNABORTED, errno.ECONNRESET, errno.ECONNREFUSED),
    *(errno.EHOSTDOWN, errno.EHOSTUNREACH),
}
# What the system says of files that are gone, are folders, or tell places that no file has.
_OF_THE_FILE = {
    *(errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.EEXIST),
    *(errno.EINVAL, errno.EOVERFLOW),
}
# HDF5 tells the number in its text, whatever h5py makes of that.
_TOLD = re.compile(r"\berrno = (\d+),")
_NO_THREAD = "can't start new thread"


def find_refusal(error: BaseException, file: object = None) -> OSError | None:
    """Return what the system refused; None where an error says that a file is to blame.

    Parameters
    ----------
    error : BaseException
        As Python, NumPy or h5py raised it.
    file : path, optional
        What was read, which h5py does not tell.
    """
    number = find_errno(error)
    if not number or number in _OF_THE_FILE:
        return None
    place = getattr(error, "filename", None) or (file and str(file))
    return OSError(number, os.strerror(number), *([place] if place else []))


def raise_refusal(error: BaseException, file: object) -> None:
    """Raise what `find_refusal` finds, if anything."""
    refusal = find_refusal(error, file)
    if refusal is not None:
        raise refusal from error


def find_errno(error: BaseException) -> int:
    """Return the system's number of an error; 0 where it has none."""
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    if isinstance(error, RuntimeError) and _NO_THREAD in str(error):
        return errno.EAGAIN
    if isinstance(error, OSError) and error.errno:
        return error.errno
    told = _TOLD.search(str(error))
    if told:
        return int(told[1])
    # As Dask does, of a worker that could not be started.
    cause = error.__cause__ if isinstance(error, RuntimeError) else None
    return find_errno(cause) if cause else 0
