"""SAFFRON: a beam search guided by the multifurcation reward model (paper, section 4)."""

import math
from collections.abc import Generator
from dataclasses import replace
from typing import Any

import torch

from langchain_saffron.search.abandoned import BEYOND, Abandoned, Road
from langchain_saffron.search.adaptive_width import DANGER, AdaptiveWidth, smoothed_risk
from langchain_saffron.search.beams import Beam, Pool, Scoring, shared_length
from langchain_saffron.search.constraint import Constraint, leaves_room, only_closing, permitted
from langchain_saffron.search.node import ROOT
from langchain_saffron.search.protocol import Answer, Expand, FinishReason, Scores, Search, SearchInputs
from langchain_saffron.search.recorder import Looked
from langchain_saffron.search.refusing import Opening, held_back, refusing_settings
from langchain_saffron.search.rewards import Rewards
from langchain_saffron.search.sampling import seeded
from langchain_saffron.search.selection import Candidate, Rules, select


def saffron_search(inputs: SearchInputs) -> Search:
    """Search for the likeliest answer among the safe ones.

    Every step scores all live beams in one policy and one reward call each, takes nucleus ∩ seen as
    candidates (under the soft mask, all of the nucleus), and keeps the best `width` (equations 2, 3 and 7).
    With `step_back`, the best of what it did not keep is remembered as long as nothing that is final rules it out, and
    taken where all beams have become unsafe.

    Width 1 takes the best candidate and ends where that ends; wider searches collect finished beams in a pool, as
    transformers' beam search does.

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
        self.abandoned = Abandoned(self.scoring, settings.width) if settings.step_back else None
        # the best finished answer before the latest step back; an unsafe one
        self.fallen: Beam | None = None
        self.live = [Beam(ROOT, state=inputs.constraint)]
        self.committed: tuple[int, ...] = ()
        self.tip = self.live[0].node
        self.vocabulary = 0
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
        length = len(self.live[0].tokens)
        while self.live and length < self.inputs.max_tokens:
            if not self.inputs.budget.affords(len(self.live), length):
                return self._out_of_budget()
            best = self.pool.beams[:1]
            scores = yield Expand(
                tuple(beam.node for beam in self.live),
                retain=tuple(parent for beam in best if (parent := beam.node.parent) is not None),
                committed=fresh,
                spare=self.abandoned.nodes if self.abandoned is not None else (),
            )
            self.widest = max(self.widest, len(self.live))
            self._step(scores.logits, scores.predicted, length)
            length = self._step_back(length + 1)
            before = len(self.committed)
            self._commit(length)
            fresh = self.committed[before:]
        if self.live or self.pool.beams or self.fallen is not None:
            return self._finish()
        return (yield from self._refuse_in_own_words()) or self._refuse(budget=False)

    def _step(self, logits: torch.Tensor, rewards: Rewards | None, length: int) -> None:
        assert rewards is not None, "a saffron search needs rewards"
        settings, inputs = self.settings, self.inputs
        self.vocabulary = logits.shape[1]
        steps_left = inputs.max_tokens - length - 1
        width = most = inputs.budget.width(settings.width, length + 1, steps_left)
        # enough to fill all live beams even if every end token of every beam ranks above them
        count = width * (1 if width == 1 else max(2, 1 + len(inputs.end_tokens)))
        # and a few more to go back to
        beyond = 0 if self.abandoned is None else width + BEYOND
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
                count=count + beyond,
                may_end=may_end,
                generator=self.generator if settings.temperature else None,
                permitted=mask,
            )
            if selection.candidates and not narrowed:
                width = self._note_risk(selection.candidates[0], most)
            grown, ended, late, looked_at = self._grow(selection.candidates[:count], width, steps_left, last)
            if grown or ended or not late:
                break
            # whatever is likely would leave documents no time to become whole
            assert mask is not None
            for row in late:
                mask[row] = only_closing(states[row], mask.shape[1], inputs.end_tokens)
            narrowed = True
        self.fallbacks += selection.fallbacks
        parents, self.live = self.live, grown
        if inputs.recorder is not None:
            looked = Looked(parents, logits, rewards, mask, may_end, selection, looked_at)
            inputs.recorder.step(looked, self.rules, grown, ended, width, most, self.risk)
        self.pool.add(ended, width)
        inputs.record([beam.tokens for beam in grown])
        ends = self.pool.settled(self.live, width) or (width == 1 and ended)
        # one safe beam is final: nothing beside it can be taken any more
        if self.abandoned is not None and not last and (self._is_held() or len(grown) + len(self.pool.beams) > 1):
            self.abandoned.leave(parents, selection.candidates[looked_at:])
            self.abandoned.leave_live(grown if ends else ())
        if ends:
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
    ) -> tuple[list[Beam], list[Beam], list[int], int]:
        """Live and ended beams of candidates, parents of what comes too late, and how many were looked at."""
        inputs = self.inputs
        grown: list[Beam] = []
        ended: list[Beam] = []
        late: list[int] = []
        rank = looked_at = 0
        for candidate in candidates:
            if len(grown) == width or (last and rank == width):
                break
            looked_at += 1
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
        return grown, ended, late, looked_at

    def _in_time(self, before: Constraint | None, state: Constraint | None, left: int) -> bool:
        return before is None or state is None or leaves_room(before, state, left, self.inputs.end_tokens)

    def _step_back(self, length: int) -> int:
        """Where all beams have become unsafe, go on from the best roads not taken instead.

        Args:
            length: Of the live beams.

        Returns:
            Of those that are live now.
        """
        inputs, most = self.inputs, self.settings.width
        while self.abandoned is not None and self._in_danger():
            at_end = length >= inputs.max_tokens
            # an answer that has ended unsafe is no reason to leave a beam that may still become safe
            standing = [beam.reward for beam in self.live or self.pool.beams if beam.reward is not None]
            roads = self.abandoned.take(
                max(standing, default=-math.inf),
                lambda length: inputs.budget.width(most, length, inputs.max_tokens - length),
            )
            if not roads:
                break
            if not at_end:
                self.abandoned.leave_live(self.live)
            ended = [*self.pool.beams, *(self.live if at_end else ()), *([self.fallen] if self.fallen else ())]
            self.fallen = max(ended, key=self.scoring.as_last, default=None)
            length = roads[0].beam.node.length
            self.pool.beams, self.live = [], []
            for road in roads:
                self._reopen(road)
            inputs.record([beam.tokens for beam in self.live], instead=True)
            if inputs.recorder is not None:
                inputs.recorder.step_back([road.beam for road in roads])
            if self.live:
                break
        return length

    def _reopen(self, road: Road) -> None:
        beam, state = road.beam, road.beam.state
        before = None if road.before is None else road.before.state
        if before is not None:
            state = before.advance(beam.tokens[-1])
            if not self._in_time(before, state, self.inputs.max_tokens - len(beam.tokens)):
                return
        finished = (state is not None and state.done) or (road.before is not None and self.inputs.stops(beam.tokens))
        beam = replace(beam, state=state, finished=finished)
        if finished:
            self.pool.add([beam], self.settings.width)
        else:
            self.live.append(beam)

    def _in_danger(self) -> bool:
        """Whether no beam, live or finished, is as safe as wanted."""
        return all(beam.reward is None or beam.reward < self.rules.threshold for beam in [*self.live, *self.pool.beams])

    def _is_held(self) -> bool:
        """Whether what all beams share is not final yet, since the search may have to go back on it."""
        if self.abandoned is None:
            return False
        return self._in_danger() or any((beam.risk or 0.0) > DANGER for beam in self.live[:1])

    def _commit(self, length: int) -> None:
        """Extend what is final: the shared path, and with a bound the best beam's next tokens."""
        lag = self.settings.commit_lag
        while lag is not None and self.live and length - len(self.committed) >= max(lag, 1):
            best = self._best()
            if len(best.tokens) == len(self.committed):
                # the best answer is complete and final: nothing can come after it
                self.live = []
                break
            self._agree_on(best, len(self.committed) + 1)
        beams = [*self.live, *self.pool.beams]
        shared = shared_length(beams)
        if beams and shared > len(self.committed) and not self._is_held():
            self._show(beams[0], shared)
        if self.abandoned is not None:
            self.abandoned.keep(self.committed)
            if self.fallen is not None and self.fallen.tokens[: len(self.committed)] != self.committed:
                self.fallen = None
        if self.inputs.recorder is not None:
            self.inputs.recorder.settle(self.live, self.pool.beams, self.committed)

    def _show(self, beam: Beam, length: int) -> None:
        self.committed, self.tip = beam.tokens[:length], beam.node
        while self.tip.length > length:
            assert self.tip.parent is not None
            self.tip = self.tip.parent

    def _agree_on(self, beam: Beam, length: int) -> None:
        self._show(beam, length)
        prefix = self.committed
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
        self._look_at_fallen()
        if self.inputs.budget.limits.on_exhausted == "refuse":
            return self._refuse(budget=True)
        return self._answer(self._last(), "budget", budget=True)

    def _finish(self) -> Answer:
        self._look_at_fallen()
        best = self.pool.beams[0] if self.pool.beams else self._last()
        return self._answer(best, "stop" if best.finished else "length", budget=False)

    def _look_at_fallen(self) -> None:
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
        search = _SaffronSearch(replace(inputs, settings=settings, constraint=opening, refusing=None))
        search.live = [Beam(self.tip, self.committed, state=opening)]
        answer = yield from held_back(search.run())
        self.fallbacks += answer.unseen_fallbacks
        self.widest = max(self.widest, answer.width)
        least = max(self.rules.threshold, self.rules.refusal_threshold or self.rules.threshold)
        if answer.finish_reason != "stop" or answer.reward is None or answer.reward < least:
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
        back = self.abandoned
        return {
            "unseen_fallbacks": self.fallbacks,
            "width": self.widest,
            "highest_risk": self.highest_risk,
            "steps_back": 0 if back is None else back.steps,
            "reopened": 0 if back is None else back.reopened,
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
