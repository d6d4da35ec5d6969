"""What the coordinator found when it looked at an update beside the others."""

from __future__ import annotations

from pydantic import Field

from federation.canonical import Message


class ChangeFigures(Message):
    """What one hospital changed in a round, beside what the others changed.

    ``norm`` is the Frobenius norm of its change of Delta W; ``cosine`` the high median of its
    cosines with the others, ``usual_cosine`` the median of the others' own, ``norm_ratio`` its norm
    over the others' median norm. None where that is not defined.
    """

    norm: float = Field(ge=0)
    cosine: float | None
    usual_cosine: float | None
    norm_ratio: float | None


class UpdateFinding(Message):
    """One update as it was found: its figures, and in words what is odd; nothing odd, no words.

    ``figures`` is None where it could not be read any more, and then ``reasons`` says so.
    ``validated_loss`` is that of this hospital's own model on the coordinator's validation set, in
    nats a completion token, None where there is no such set or it could not be used;
    ``validated_variance`` the loss's sample variance over folds of the set, None also where the set
    has too few examples for folds.
    """

    figures: ChangeFigures | None
    reasons: tuple[str, ...]
    validated_loss: float | None = None
    validated_variance: float | None = None
