"""Ports that bear one name on both ends of a connection."""

from __future__ import annotations

from collections.abc import Iterable


def same(ports: Iterable[str]) -> list[tuple[str, str]]:
    """Return the connections from one graph's outputs to inputs of the same name of another.

    Parameters
    ----------
    ports
        Names that the ``outputnode`` of one and the ``inputnode`` of the other share.

    Returns
    -------
    connections
        A list of its own: Nipype keeps and changes the one that it is given.

    Examples
    --------
    >>> same(["image_file"])
    [('outputnode.image_file', 'inputnode.image_file')]
    """
    return [(f"outputnode.{port}", f"inputnode.{port}") for port in ports]
