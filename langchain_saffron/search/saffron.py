"""SAFFRON: a beam search guided by the multifurcation reward model (paper, section 4)."""

import math

import torch

from langchain_saffron.search.adaptive_width import AdaptiveWidth, smoothed_risk
from langchain_saffron.search.beams import Beam, Pool, Scoring, shared_length
from langchain_saffron.search.constraint import Constraint, leaves_room, only_closing, permitted
from langchain_saffron.search.node import ROOT
from langchain_saffron.search.protocol import Answer, Expand, FinishReason, Search, SearchInputs
from langchain_saffron.search.rewards import Rewards
from langchain_saffron.search.sampling import seeded
from langchain_saffron.search.selection import Candidate, Rules, select


def saffron_search(inputs: SearchInputs) -> Search:
    """Search for the likeliest answer among the safe ones.

    Every step scores all live beams in one policy and one reward call each, takes nucleus ∩ seen as
    candidates (under the soft mask, all of the nucleus), and keeps the best `width` (equations 2, 3 and 7).
    Width 1 takes the best candidate and ends where that ends; wider searches collect finished beams in a
    pool, as transformers' beam search does.

    Args:
        inputs: Settings with `max_tokens` and `safety_threshold` filled in, end tokens, mask, budget, grammar.

    Returns:
        The search. Its steps commit what no later step can take back.
    """
    return _SaffronSearch(inputs).run()


class _SaffronSearch:
    """The state of one search."""

    def __init__(self, inputs: SearchInputs) -> None:
        settings = inputs.settings
        assert settings.safety_threshold is not None
        self.inputs = inputs
        self.settings = settings
        self.scoring = Scoring(settings)
        self.pool = Pool(self.scoring)
        self.live = [Beam(ROOT, state=inputs.constraint)]
        self.committed: tuple[int, ...] = ()
        self.fallbacks = 0
        self.widest = 1
        self.risk: float | None = None
        self.highest_risk: float | None = None
        self.adaptive = AdaptiveWidth(settings.width, settings.safety_threshold) if settings.adaptive else None
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

    def run(self) -> Search:
        """Step until the pool is settled, nothing is left to expand, or the budget is spent."""
        fresh: tuple[int, ...] = ()
        length = 0
        while self.live and length < self.inputs.max_tokens:
            if not self.inputs.budget.affords(len(self.live), length):
                return self._out_of_budget()
            best = self.pool.beams[:1]
            scores = yield Expand(
                tuple(beam.node for beam in self.live),
                retain=tuple(parent for beam in best if (parent := beam.node.parent) is not None),
                committed=fresh,
            )
            self.widest = max(self.widest, len(self.live))
            self._step(scores.logits, scores.predicted, length)
            length += 1
            before = len(self.committed)
            self._commit(length)
            fresh = self.committed[before:]
        return self._finish()

    def _step(self, logits: torch.Tensor, rewards: Rewards | None, length: int) -> None:
        assert rewards is not None, "a saffron search needs rewards"
        settings, inputs = self.settings, self.inputs
        steps_left = inputs.max_tokens - length - 1
        width = most = inputs.budget.width(settings.width, length + 1, steps_left)
        # enough to fill all live beams even if every end token of every beam ranks above them
        spare = 1 if width == 1 else max(2, 1 + len(inputs.end_tokens))
        may_end = length >= settings.min_tokens
        states = [beam.state for beam in self.live if beam.state is not None]
        mask = permitted(states, inputs.end_tokens, may_end, steps_left + 1) if states else None
        last = length + 1 >= inputs.max_tokens
        narrowed = False
        while True:
            selection = select(
                logits,
                rewards,
                [beam.logprob for beam in self.live],
                [beam.reward for beam in self.live],
                self.rules,
                count=spare * width,
                may_end=may_end,
                generator=self.generator if settings.temperature else None,
                permitted=mask,
            )
            if selection.candidates and not narrowed:
                width = self._note_risk(selection.candidates[0], most)
            grown, ended, late = self._grow(selection.candidates, width, steps_left, last)
            if grown or ended or not late:
                break
            # whatever is likely would leave documents no time to become whole
            assert mask is not None
            for row in late:
                mask[row] = only_closing(states[row], mask.shape[1], inputs.end_tokens)
            narrowed = True
        self.fallbacks += selection.fallbacks
        self.pool.add(ended, width)
        self.live = grown
        inputs.record([beam.tokens for beam in grown])
        if self.pool.settled(self.live, width) or (width == 1 and ended):
            self.live = []
        elif last and not self.rules.paper:
            self.pool.add(self.live, width)
            self.live = []

    def _note_risk(self, best: Candidate, most: int) -> int:
        """Look at a step's best candidate, and say how wide the step should be."""
        self.risk = smoothed_risk(self.live[best.beam].risk, best.risk)
        self.highest_risk = max(self.highest_risk or 0.0, self.risk)
        return most if self.adaptive is None else min(most, self.adaptive.next(best.reward, best.risk, self.risk))

    def _grow(
        self, candidates: list[Candidate], width: int, steps_left: int, last: bool
    ) -> tuple[list[Beam], list[Beam], list[int]]:
        """The beams that candidates make, live and ended ones, and which parents have some that come too late."""
        inputs = self.inputs
        grown: list[Beam] = []
        ended: list[Beam] = []
        late: list[int] = []
        rank = 0
        for candidate in candidates:
            if len(grown) == width or (last and rank == width):
                break
            parent = self.live[candidate.beam]
            state = parent.state if candidate.ends or parent.state is None else parent.state.advance(candidate.token)
            # what nothing may follow ends without an end token
            finished = candidate.ends or (state is not None and state.done)
            finished = finished or inputs.stops((*parent.tokens, candidate.token))
            if not (finished or self._in_time(parent.state, state, steps_left)):
                late.append(candidate.beam)
                continue
            beam = parent.grow(candidate, finished, state)
            if not finished:
                grown.append(beam)
            elif rank < width:
                ended.append(beam)
            rank += 1
        return grown, ended, late

    def _in_time(self, before: Constraint | None, state: Constraint | None, left: int) -> bool:
        return before is None or state is None or leaves_room(before, state, left, self.inputs.end_tokens)

    def _commit(self, length: int) -> None:
        """Extend what is final: the shared path, and with a bound the best beam's next tokens."""
        lag = self.settings.commit_lag
        while lag is not None and self.live and length - len(self.committed) >= max(lag, 1):
            best = self._best()
            if len(best.tokens) == len(self.committed):
                # the best answer is complete and final: nothing can come after it
                self.live = []
                break
            self._agree_on(best.tokens[: len(self.committed) + 1])
        beams = [*self.live, *self.pool.beams]
        shared = shared_length(beams)
        if beams and shared > len(self.committed):
            self.committed = beams[0].tokens[:shared]

    def _agree_on(self, prefix: tuple[int, ...]) -> None:
        self.committed = prefix
        self.live = [beam for beam in self.live if beam.tokens[: len(prefix)] == prefix]
        self.pool.keep(prefix)

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

    def _out_of_budget(self) -> Answer:
        if self.inputs.budget.limits.on_exhausted == "refuse":
            return self._refuse(budget=True)
        return self._answer(self._last(), "budget", budget=True)

    def _finish(self) -> Answer:
        if not self.live and not self.pool.beams:
            return self._refuse(budget=False)
        best = self.pool.beams[0] if self.pool.beams else self._last()
        return self._answer(best, "stop" if best.finished else "length", budget=False)

    def _refuse(self, budget: bool) -> Answer:
        """The safe part so far: the engine adds the refusal text."""
        return Answer(
            self.committed,
            "refusal",
            unseen_fallbacks=self.fallbacks,
            budget_exhausted=budget,
            width=self.widest,
            complete=self.inputs.constraint is None,
            risk=self.risk,
            highest_risk=self.highest_risk,
        )

    def _answer(self, beam: Beam, reason: FinishReason, budget: bool) -> Answer:
        return Answer(
            beam.tokens,
            reason,
            reward=beam.reward,
            min_reward=beam.min_reward if math.isfinite(beam.min_reward) else None,
            unseen_fallbacks=self.fallbacks,
            node=beam.node,
            budget_exhausted=budget,
            width=self.widest,
            complete=beam.complete,
            risk=beam.risk,
            highest_risk=self.highest_risk,
        )
