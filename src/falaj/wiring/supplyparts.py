"""The parts of the supply chain of models, joined."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from falaj.kernel.call import Call
    from falaj.models.vulnerabilities import Vulnerabilities
    from falaj.serving.model import Release
    from falaj.wiring.assembly import Premises


def advisories(made: Premises) -> Vulnerabilities | None:
    """The known vulnerabilities; None if the settings name no file of them."""
    from falaj.models.vulnerabilities import Vulnerabilities

    file = made.settings.supply_chain.vulnerabilities
    return None if file is None else Vulnerabilities(file)


def refuse_revoked(made: Premises, release: Release) -> None:
    """Return if no bundle of a release, and none of their signers, was revoked.

    For work that asks no routing table: a scoring job that was begun before the revocation.
    Raises BundleRevoked.
    """
    from falaj.models.revocations import check_not_revoked

    with made.database.reading() as connection:
        for variant in release.variants:
            for member in variant.pinned:
                signers = made.bundles.signers(member.bundle)
                check_not_revoked(connection, member.bundle, signers)


class Withdrawn:
    """Stops releases, made when something is revoked first; fulfils ``models.ports.Withdrawal``."""

    def __init__(self, made: Premises) -> None:
        self._made = made

    def withdraw(self, call: Call, revoked: Callable[[str], bool]) -> list[str]:
        """See ``Withdrawal.withdraw``."""
        return self._made.serving.releases.withdraw(call, revoked)
