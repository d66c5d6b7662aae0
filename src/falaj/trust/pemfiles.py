"""Files of keys and certificates: written whole, synced, readable by their owner alone."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from falaj.kernel.errors import LimitExceeded


def pem(certificate: x509.Certificate) -> bytes:
    """A certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def pem_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as PEM (PKCS #8), in clear."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def read_key(data: bytes) -> ec.EllipticCurvePrivateKey:
    """A private key of an elliptic curve; raises ValueError or TypeError for anything else."""
    key = serialization.load_pem_private_key(data, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("another kind of key")
    return key


def write(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Replace a file in one step, synced; never readable by others in between.

    Raises:
        LimitExceeded: the disk refuses.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise LimitExceeded(
            f"The file {path} cannot be written: {error.strerror}.",
            hint="Free some space or mend the permissions.",
        ) from None


def removed(path: Path) -> None:
    """Remove a file whose content is secret: overwritten first, as far as the disk does that.

    A disk that writes elsewhere (flash, a file system that copies on write) keeps the old
    blocks for a while; only an encrypted volume helps there.
    """
    with suppress(FileNotFoundError):
        with path.open("r+b") as file:
            file.write(b"\0" * os.fstat(file.fileno()).st_size)
            file.flush()
            os.fsync(file.fileno())
        path.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
