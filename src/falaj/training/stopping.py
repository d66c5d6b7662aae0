"""Early stopping on a loss: the best round so far, and when to give up."""

from __future__ import annotations

import math

from pydantic import BaseModel


class Patience(BaseModel):
    """Watches the loss of each round; ends after ``rounds`` without a better one.

    Part of a fit's checkpoint, so that one that is taken up again stops at the same round.
    """

    rounds: int
    n_done: int = 0
    best: int = 0
    """The number of rounds at which the loss was least; the first of equals."""
    best_loss: float | None = None

    def saw(self, loss: float) -> bool:
        """Note the loss after one more round; True if it is the best so far."""
        self.n_done += 1
        better = self.best_loss is None or loss < self.best_loss
        if better and not math.isnan(loss):
            self.best, self.best_loss = self.n_done, loss
            return True
        return False

    @property
    def over(self) -> bool:
        """True if it is time to stop."""
        return self.n_done - self.best >= self.rounds
