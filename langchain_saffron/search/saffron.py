"""SAFFRON: a beam search guided by the multifurcation reward model (paper, section 4)."""

import math
from collections.abc import Generator, Sequence
from dataclasses import replace

import torch

from langchain_saffron.search.abandoned import BEYOND, Road
from langchain_saffron.search.adaptive_width import DANGER, smoothed_risk
from langchain_saffron.search.answering import BeamSearch
from langchain_saffron.search.beams import Beam, shared_length
from langchain_saffron.search.constraint import Constraint, leaves_room, only_closing, permitted
from langchain_saffron.search.node import Node
from langchain_saffron.search.protocol import Expand, Scores, Search, SearchInputs
from langchain_saffron.search.recorder import Looked
from langchain_saffron.search.rewards import Rewards
from langchain_saffron.search.selection import Candidate, select


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


class _SaffronSearch(BeamSearch):
    """The steps of one search."""

    def run(self) -> Search:
        """Step until the pool is settled, nothing is left to expand, or the budget is spent."""
        fresh: tuple[int, ...] = ()
        length = len(self.live[0].tokens)
        while self.live and length < self.inputs.max_tokens:
            if not self.inputs.budget.affords(len(self.live), length, prm_nodes=self._to_look_at()):
                return (yield from self._out_of_budget())
            best = self.pool.beams[:1]
            scores = yield Expand(
                tuple(beam.node for beam in self.live),
                retain=tuple(parent for beam in best if (parent := beam.node.parent) is not None),
                committed=fresh,
                spare=self.abandoned.nodes if self.abandoned is not None else (),
                least=min(self.settings.least_width, len(self.live)),
            )
            self._give_up(len(scores.logits))
            self.widest = max(self.widest, len(self.live))
            yield from self._step(scores.logits, scores.predicted, length)
            length = yield from self._step_back(length + 1)
            before = len(self.committed)
            self._commit(length)
            fresh = self.committed[before:]
        if self.live or self.pool.beams or self.fallen is not None:
            return self._finish()
        if (own := (yield from self._refuse_in_own_words())) is not None:
            return own
        return self._refuse(budget=self.verifier is not None and self.verifier.is_short)

    def _give_up(self, scored: int) -> None:
        """Go on with the beams that there was room for, the best ones."""
        self.room.note(len(self.live), scored)
        if scored == len(self.live):
            return
        self.live, lost = self.live[:scored], self.live[scored:]
        if self.abandoned is not None:
            self.abandoned.leave_live(lost)
        if self.inputs.recorder is not None:
            self.inputs.recorder.give_up(lost)

    def _to_look_at(self) -> tuple[Node, ...]:
        """What stands for the texts whose last look has to be paid for, too, before a step is made."""
        return () if self.verifier is None else tuple(beam.node for beam in self.live if beam.tokens)

    def _step(self, logits: torch.Tensor, rewards: Rewards | None, length: int) -> Generator[Expand, Scores, None]:
        assert rewards is not None, "a saffron search needs rewards"
        settings, inputs = self.settings, self.inputs
        self.vocabulary = logits.shape[1]
        steps_left = inputs.max_tokens - length - 1
        width = most = min(inputs.budget.width(settings.width, length + 1, steps_left), self.room.width)
        # enough to fill all live beams even if every end token of every beam ranks above them
        count = width * (1 if width == 1 else max(2, 1 + len(inputs.end_tokens)))
        # and a few more to go back to
        beyond = 0 if self.abandoned is None else width + BEYOND
        may_end = length >= settings.min_tokens
        states = [beam.state for beam in self.live if beam.state is not None]
        mask = permitted(states, inputs.end_tokens, may_end, steps_left + 1) if states else None
        last = length + 1 >= inputs.max_tokens
        noted = False
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
            if selection.candidates and not noted:
                width, noted = self._note_risk(selection.candidates[0], most), True
                if self._want():
                    continue
            grown, ended, late, looked_at = self._grow(selection.candidates[:count], width, steps_left, last)
            if grown or ended or not late:
                break
            # whatever is likely would leave documents no time to become whole
            assert mask is not None
            for row in late:
                mask[row] = only_closing(states[row], mask.shape[1], inputs.end_tokens)
        self.fallbacks += selection.fallbacks
        parents = self.live
        if inputs.recorder is not None:
            looked = Looked(parents, logits, rewards, mask, may_end, selection, looked_at)
            inputs.recorder.step(looked, self.rules, grown, ended, width, most, self.risk)
        # before anything is decided: what falls must push nothing else out
        grown, ended, overruled = yield from self._look(grown, ended, parents, last)
        self.live = grown
        self.pool.add(ended, width)
        inputs.record([beam.tokens for beam in grown])
        ends = self.pool.settled(self.live, width) or (width == 1 and ended)
        # one safe beam is final: nothing beside it can be taken any more
        alone = self.verifier is None and len(grown) + len(self.pool.beams) <= 1
        if self.abandoned is not None and not last and (self._is_held() or not alone):
            self.abandoned.leave(parents, selection.candidates[looked_at:])
            self.abandoned.leave_live(grown if ends else ())
        self._doubt(overruled)
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

    def _want(self) -> bool:
        """Want what the danger asks for from now on; whether that is more than until now."""
        if self.adaptive is None or self.adaptive.wanted == self.rules.threshold:
            return False
        more = self.adaptive.wanted > self.rules.threshold
        self.rules = replace(self.rules, threshold=self.adaptive.wanted, doubt=self.adaptive.doubt)
        self.scoring.threshold = self.adaptive.wanted
        return more

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

    def _look(
        self, live: list[Beam], ended: list[Beam], parents: Sequence[Beam], last: bool
    ) -> Generator[Expand, Scores, tuple[list[Beam], list[Beam], list[tuple[Beam, float]]]]:
        """What of a step's live and finished beams stands, and what the process reward model overrules, if it may."""
        if self.verifier is None:
            return live, ended, []
        spare = () if self.abandoned is None else self.abandoned.nodes
        stay = dict.fromkeys((*self._stay([*live, *ended]), *(beam.node for beam in parents)))
        looks = yield from self.verifier.look([*live, *ended], tuple(stay), spare, last)
        live = [beam for beam in looks.standing if not beam.finished]
        return live, [beam for beam in looks.standing if beam.finished], looks.overruled

    def _doubt(self, overruled: list[tuple[Beam, float]]) -> None:
        for beam, reward in overruled:
            assert self.abandoned is not None
            self.abandoned.overrule(beam, reward)

    def _step_back(self, length: int) -> Generator[Expand, Scores, int]:
        """Where all beams have become unsafe, or were overruled, go on from the best roads not taken instead.

        Args:
            length: Of the live beams.

        Returns:
            Of those that are live now.
        """
        inputs, most = self.inputs, self.settings.width
        while self.abandoned is not None and self._in_danger() and not self._may_turn(length):
            if self.verifier is not None and self.verifier.despairs:
                break
            at_end = length >= inputs.max_tokens
            # an answer that has ended unsafe is no reason to leave a beam that may still become safe
            standing = [beam.reward for beam in self.live or self.pool.beams if beam.reward is not None]
            roads = self.abandoned.take(
                max(standing, default=-math.inf),
                [*self.live, *self.pool.beams],
                lambda length: min(inputs.budget.width(most, length, inputs.max_tokens - length), self.room.width),
            )
            if not roads:
                break
            if not at_end:
                self.abandoned.leave_live(self.live)
            ended = [*self.pool.beams, *(self.live if at_end else ()), *([self.fallen] if self.fallen else ())]
            self.fallen = max(ended, key=self.scoring.as_last, default=None)
            length = roads[0].beam.node.length
            self.pool.beams, self.live = [], []
            beams = [beam for road in roads if (beam := self._reopened(road)) is not None]
            if inputs.recorder is not None:
                inputs.recorder.step_back([road.beam for road in roads])
            live = [beam for beam in beams if not beam.finished]
            ended = [beam for beam in beams if beam.finished]
            self.live, ended, overruled = yield from self._look(live, ended, (), length >= inputs.max_tokens)
            self._doubt(overruled)
            for beam in ended:
                self.pool.add([beam], most)
            inputs.record([beam.tokens for beam in self.live], instead=True)
            if self.live:
                break
        return length

    def _may_turn(self, length: int) -> bool:
        """Whether to wait: the many beams of a search in danger may still become safe, and nothing is shown yet.

        A road is taken for its predicted reward, and the best of so many predictions is seldom true: to go back before
        the likely texts have been followed trades a refusal a sentence later for words that no policy would say. Under
        a budget, though, waiting may cost what going back would need.
        """
        widened = self.adaptive is not None and self.settings.width > 1 and bool(self.live)
        if not widened or self.verifier is not None or self.inputs.budget.limits.limited:
            return False
        lag = self.settings.commit_lag
        return lag is None or length - len(self.committed) < max(lag, 1)

    def _reopened(self, road: Road) -> Beam | None:
        """The beam of a road, or `None` where its document could not become whole in time."""
        beam, state = road.beam, road.beam.state
        before = None if road.before is None else road.before.state
        if before is not None:
            state = before.advance(beam.tokens[-1])
            if not self._in_time(before, state, self.inputs.max_tokens - len(beam.tokens)):
                return None
        finished = (state is not None and state.done) or (road.before is not None and self.inputs.stops(beam.tokens))
        return replace(beam, state=state, finished=finished)

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
            if self.verifier is not None and best.looked <= len(self.committed):
                break
            self._agree_on(best, len(self.committed) + 1)
        beams = [*self.live, *self.pool.beams]
        shared = shared_length(beams)
        if self.verifier is not None:
            # what one of them begins with has been read as a part of that one
            shared = min(shared, max((beam.looked for beam in beams), default=0))
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
