"""The parts of the supply chain of models, joined."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from falaj.kernel.call import Call
    from falaj.models.vulnerabilities import Vulnerabilities
    from falaj.wiring.assembly import Premises


def advisories(made: Premises) -> Vulnerabilities | None:
    """The known vulnerabilities; None if the settings name no file of them."""
    from falaj.models.vulnerabilities import Vulnerabilities

    file = made.settings.supply_chain.vulnerabilities
    return None if file is None else Vulnerabilities(file)


class Withdrawn:
    """Stops releases, made when something is revoked first; fulfils ``models.ports.Withdrawal``."""

    def __init__(self, made: Premises) -> None:
        self._made = made

    def withdraw(self, call: Call, revoked: Callable[[str], bool]) -> list[str]:
        """See ``Withdrawal.withdraw``."""
        return self._made.serving.releases.withdraw(call, revoked)
