"""What a beam search holds, and how it ends."""

import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any

import torch

from langchain_saffron.search.abandoned import Abandoned
from langchain_saffron.search.adaptive_width import AdaptiveWidth
from langchain_saffron.search.beams import Beam, Pool, Scoring
from langchain_saffron.search.node import ROOT, Node
from langchain_saffron.search.protocol import Answer, Expand, FinishReason, Scores, Search, SearchInputs
from langchain_saffron.search.refusing import Opening, held_back, refusing_settings
from langchain_saffron.search.room import Room
from langchain_saffron.search.rules import Rules
from langchain_saffron.search.sampling import seeded
from langchain_saffron.search.verifying import Verifier


class BeamSearch(ABC):
    """The state of one search, and its ends.

    Attributes:
        inputs: What it knows besides the scores.
        settings: Those of the inputs.
        rules: What decides over candidates.
        scoring: What decides over beams.
        live: The beams that it goes on with.
        pool: The best finished answers.
        fallen: The best finished answer before the latest step back; an unsafe one.
        abandoned: The roads not taken, where it may go back to them.
        verifier: Has a last look at what is to be final, where one is wanted.
        committed: The tokens that are final.
        tip: Their node.
        vocabulary: Width of the policy's scores; 0 before the first step.
        fallbacks: How often the mask emptied a beam's nucleus.
        widest: The most beams that were scored at once.
        room: How wide it may be where the cache had no room for all beams.
        risk: The latest step's, smoothed.
        highest_risk: The same where it was highest.
        adaptive: Chooses the width of every step, where that is wanted.
        generator: The source of chance.
    """

    def __init__(self, inputs: SearchInputs) -> None:
        """Begin with the empty response.

        Args:
            inputs: Settings with `max_tokens` and `safety_threshold` filled in, end tokens, mask, budget, grammar.
        """
        settings = inputs.settings
        assert settings.safety_threshold is not None
        self.inputs = inputs
        self.settings = settings
        self.scoring = Scoring(settings)
        self.pool = Pool(self.scoring)
        self.abandoned = Abandoned(self.scoring, settings.width) if settings.goes_back else None
        self.verifier = Verifier(inputs) if settings.verify else None
        self.fallen: Beam | None = None
        self.live = [Beam(ROOT, state=inputs.constraint)]
        self.committed: tuple[int, ...] = ()
        self.tip = self.live[0].node
        self.vocabulary = 0
        self.fallbacks = 0
        self.widest = 1
        self.room = Room(settings.width)
        self.risk: float | None = None
        self.highest_risk: float | None = None
        self.adaptive = (
            AdaptiveWidth(settings.width, settings.safety_threshold, inputs.reward_error, settings.width_floor or 1)
            if settings.adaptive
            else None
        )
        self.rules = Rules(
            end_tokens=torch.tensor(inputs.end_tokens, dtype=torch.long),
            seen=inputs.seen,
            soft=settings.mask == "soft",
            top_p=settings.top_p,
            temperature=settings.temperature,
            paper=settings.ranking == "paper",
            threshold=settings.safety_threshold,
            weight=settings.safety_weight,
            refusal_threshold=settings.refusal_threshold,
            marks=torch.tensor(inputs.marks, dtype=torch.long),
        )
        self.generator = seeded(inputs)

    @abstractmethod
    def run(self) -> Search:
        """Search."""

    def _best(self) -> Beam:
        """The best beam: finished ones by their score, live ones as if they ended here."""
        beams = [*self.pool.beams[:1], *self.live[:1]]
        if self.rules.paper and self.pool.beams:
            return self.pool.beams[0]
        return max(beams, key=self.scoring.as_finished)

    def _last(self) -> Beam:
        """The best beam where nothing can be added any more: under a grammar, complete documents come first."""
        if self.inputs.constraint is None or (self.rules.paper and self.pool.beams):
            return self._best()
        return max([*self.pool.beams, *self.live], key=self.scoring.as_last)

    def _out_of_budget(self) -> Search:
        if self.inputs.budget.limits.on_exhausted == "refuse":
            return self._refuse(budget=True)
        if self.verifier is not None:
            best_first = sorted(self.live, key=self.scoring.as_last, reverse=True)
            self.live = (yield from self.verifier.look(best_first, self._stay(best_first), last=True)).standing
        self._take_fallen()
        if not self.live and not self.pool.beams:
            return self._refuse(budget=True)
        return self._answer(self._last(), "budget", budget=True)

    def _finish(self) -> Answer:
        self._take_fallen()
        best = self.pool.beams[0] if self.pool.beams else self._last()
        return self._answer(best, "stop" if best.finished else "length", budget=False)

    def _stay(self, beams: Sequence[Beam]) -> tuple[Node, ...]:
        """What has to stay in the cache while some beams are looked at: what they grow from, and the best answer."""
        parents = (beam.node.parent for beam in (*beams, *self.pool.beams[:1]))
        return tuple(dict.fromkeys(parent for parent in parents if parent is not None))

    def _take_fallen(self) -> None:
        if self.fallen is not None:
            self.pool.add([self.fallen], len(self.pool.beams) + 1)

    def _refuse_in_own_words(self) -> Generator[Expand, Scores, Answer | None]:
        """Search for a refusal behind what is final; `None` where the model has none that may be said."""
        inputs, said = self.inputs, len(self.committed)
        if inputs.refusing is None or not self.vocabulary:
            return None
        if inputs.recorder is not None:
            inputs.recorder.refuse()
        opening = Opening(inputs.refusing[said > 0], self.vocabulary)
        settings = refusing_settings(self.settings, said)
        search = type(self)(replace(inputs, settings=settings, constraint=opening, refusing=None))
        search.live = [Beam(self.tip, self.committed, state=opening)]
        search.room = self.room
        answer = yield from held_back(search.run())
        self.fallbacks += answer.unseen_fallbacks
        self.widest = max(self.widest, answer.width)
        assert self.settings.safety_threshold is not None
        wanted = self.settings.safety_threshold
        least = max(wanted, self.rules.refusal_threshold or wanted)
        if answer.finish_reason != "stop" or answer.reward is None or answer.reward < least:
            return None
        if self.verifier is not None:
            assert answer.node is not None
            words = Beam(answer.node, answer.tokens, finished=True, looked=said)
            if not (yield from self.verifier.look([words], self._stay([words]))).standing:
                return None
        return replace(answer, finish_reason="refusal", refusal_at=said, **self._counts())

    def _refuse(self, budget: bool) -> Answer:
        """The safe part so far: the engine adds the refusal text."""
        return Answer(
            self.committed,
            "refusal",
            budget_exhausted=budget,
            complete=self.inputs.constraint is None,
            risk=self.risk,
            **self._counts(),
        )

    def _counts(self) -> dict[str, Any]:
        back, look = self.abandoned, self.verifier
        return {
            "unseen_fallbacks": self.fallbacks,
            "width": self.widest,
            "highest_risk": self.highest_risk,
            "steps_back": 0 if back is None else back.steps,
            "reopened": 0 if back is None else back.reopened,
            "verified": 0 if look is None else look.verified,
            "overruled": 0 if look is None else look.overruled,
            "narrowed": self.room.narrowed,
            "narrowest_width": self.room.narrowest,
        }

    def _answer(self, beam: Beam, reason: FinishReason, budget: bool) -> Answer:
        return Answer(
            beam.tokens,
            reason,
            reward=beam.reward,
            min_reward=beam.min_reward if math.isfinite(beam.min_reward) else None,
            node=beam.node,
            budget_exhausted=budget,
            complete=beam.complete,
            risk=beam.risk,
            **self._counts(),
        )
