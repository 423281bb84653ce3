"""How a sodium file was measured: its sidecar, and what raw data say of themselves."""

from __future__ import annotations

from sodiumprep.bids_app.index import RawFile, one_line
from sodiumprep.bids_app.metadata import Protocol, UserError, read_protocol
from sodiumprep.bids_app.settings import Settings
from sodiumprep.interfaces.kspace import read_kspace_header


def read_source_protocol(settings: Settings, source: RawFile) -> Protocol:
    """Return how a sodium image or raw data were measured.

    Parameters
    ----------
    settings
        The user's choices; with a relaxation file the field strength may be missing.
    source
        The file with its sidecar.

    Returns
    -------
    protocol
        Checked numbers in SI units.

    Raises
    ------
    UserError
        If a raw file cannot be read, a key is missing or not plausible, or header and sidecar
        contradict each other.
    """
    needed = settings.relaxation_file is None
    if not source.is_kspace:
        return read_protocol(source.metadata, str(source.path), None, needed)
    try:
        header = read_kspace_header(source.path)
    except (ValueError, OSError) as error:
        text = one_line(error)
        named = text if str(source.path) in text else f"{source.path}: {text}"
        raise UserError(named) from error
    # What stands beside the k-space file must agree with it; what only the image of the same
    # name says stands in where both are silent.
    stated = {
        "EchoTime": header.echo_time,
        "RepetitionTime": header.repetition_time,
        "FlipAngle": header.flip_angle,
        "MagneticFieldStrength": header.field_strength,
    }
    silent = {
        key: value
        for key, value in source.metadata.items()
        if stated.get(key) is None or key in source.own
    }
    return read_protocol(silent, str(source.path), header, needed)
