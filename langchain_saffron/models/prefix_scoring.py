"""Scores of all prefixes of many answers, over one trie: the trunk once, then the question after every prefix."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from langchain_saffron.cache.prefix_forest import NO_PARENT
from langchain_saffron.errors import CacheFullError, ContextOverflowError, NumericalError
from langchain_saffron.models.decoder import TrieDecoder
from langchain_saffron.models.row_lot import MOST_ROWS, RowLot, fill
from langchain_saffron.models.token_lots import added_size, in_lots, pair_size, shared_start

# rows that attend together: each also reads past the others' questions
GROUP_ROWS = 128

# tokens of the sequences that share forwards
LOT_TOKENS = 4096

Pair = tuple[Sequence[int], Sequence[int]]
# how many tokens of an answer, or the node that they end at, and what could follow them
Branch = tuple[int, tuple[int, ...]]


class PrefixScorer:
    """Asks a decoder the same question after every prefix of an answer.

    A sequence's tokens are computed once (the trunk); the question, if there is one, hangs off each of them as a
    branch of its own. That is `L + L · S` tokens for an answer of `L` tokens and a question of `S`, in place of
    `L · (L / 2 + S)` by one forward a prefix (SAFFRON paper, section 4.4 and Proposition 2).

    Attributes:
        decoder: The model over its trie.
        suffix: The question's token ids; empty if the answer is read at the prefix itself.
        columns: The outputs that are wanted; `None` for all.
    """

    def __init__(self, decoder: TrieDecoder, suffix: Sequence[int], columns: Sequence[int] | None = None) -> None:
        self.decoder = decoder
        self.suffix = list(suffix)
        self.columns = None if columns is None else list(columns)

    def outputs(self, pairs: Sequence[Pair], salt: str = "") -> list[torch.Tensor]:
        """The decoder's outputs after every prefix.

        Args:
            pairs: (prompt, answer) as token ids, both with at least one token.
            salt: Whose cached prompts are shared.

        Returns:
            A tensor [answer tokens, columns] a pair, on the decoder's device.

        Raises:
            ContextOverflowError: Prompt, answer and question together are longer than the model's context.
            NumericalError: The model returned NaN.
        """
        return self.branched_outputs(pairs, [()] * len(pairs), salt)[0]

    def branched_outputs(
        self, pairs: Sequence[Pair], branches: Sequence[Sequence[Branch]], salt: str = ""
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """`outputs`, and those after prefixes of the answers with other tokens behind each.

        A branch costs those tokens and the question: the prefix itself is there.

        Args:
            pairs: As for `outputs`, which also says what is raised.
            branches: Those of each pair: how many tokens of the answer, at most all but one, and what follows them.
            salt: Whose cached prompts are shared.

        Returns:
            The outputs after all prefixes, a tensor [answer tokens, columns] a pair; and those after the branches, a
            tensor [branches, columns] a pair.
        """
        for prompt, answer in pairs:
            self.check_length(prompt, answer)
        prefixes, beside = [], []
        done = 0
        for lot in in_lots(pairs, self._lot_tokens, pair_size):
            wanted = branches[done : done + len(lot)]
            done += len(lot)
            with self._trunks(lot, salt) as trunks:
                answers = [trunk[len(prompt) :] for trunk, (prompt, _) in zip(trunks, lot, strict=True)]
                prefixes += list(self._prefix_outputs(trunks, answers))
                starts = [
                    (trunk[len(prompt) + count - 1], tokens)
                    for trunk, (prompt, _), some in zip(trunks, lot, wanted, strict=True)
                    for count, tokens in some
                ]
                beside += list(self._branch_outputs(starts))
        outputs = torch.cat(prefixes)
        others = torch.cat(beside) if beside else outputs[:0]
        self._check_numbers(outputs)
        self._check_numbers(others)
        lengths = [len(answer) for _, answer in pairs]
        return list(outputs.split(lengths)), list(others.split([len(some) for some in branches]))

    def end_outputs(self, texts: Sequence[Sequence[int]]) -> torch.Tensor:
        """The decoder's outputs after whole texts, which share the work on what they begin with alike.

        Args:
            texts: Token ids, each with at least one token.

        Returns:
            A tensor [texts, columns], on the decoder's device.

        Raises:
            ContextOverflowError: A text and the question together are longer than the model's context.
            NumericalError: The model returned NaN.
        """
        for text in texts:
            self.check_length(text, ())
        lots = in_lots(texts, self._lot_tokens, added_size)
        outputs = torch.cat([self._end_outputs(lot) for lot in lots])
        self._check_numbers(outputs)
        return outputs

    def check_length(self, prompt: Sequence[int], answer: Sequence[int]) -> None:
        """Refuse what is longer than the model's context.

        Raises:
            ContextOverflowError: It is.
        """
        length = len(prompt) + len(answer) + len(self.suffix)
        if length > self.decoder.capacity:
            raise CacheFullError(
                f"a conversation of {length} tokens, the question to the {self.decoder.name} included, is longer than "
                f"the {self.decoder.capacity} slots of its KV cache: raise max_cache_tokens"
            )
        if length > self.decoder.context:
            raise ContextOverflowError(
                f"a conversation of {length} tokens, the question to the {self.decoder.name} included, is longer than "
                f"its context of {self.decoder.context}"
            )

    def _check_numbers(self, outputs: torch.Tensor) -> None:
        if bool(outputs.isnan().any()):
            raise NumericalError(f"the {self.decoder.name} returned NaN: damaged weights, or too narrow a dtype")

    @property
    def _lot_tokens(self) -> int:
        return min(LOT_TOKENS, self.decoder.forest.capacity // 2)

    @contextmanager
    def _trunks(self, pairs: Sequence[Pair], salt: str) -> Iterator[list[list[int]]]:
        """The nodes of some sequences, held meanwhile."""
        forest = self.decoder.forest
        trunks: list[list[int]] = []
        try:
            for prompt, answer in pairs:
                trunks.append(forest.insert([*prompt, *answer], salt=salt))
            yield trunks
        finally:
            for trunk in trunks:
                forest.release(trunk[-1])

    def _prefix_outputs(self, trunks: list[list[int]], answers: list[list[int]]) -> Iterator[torch.Tensor]:
        """Outputs after every node of some answers."""
        if not self.suffix:
            yield from self._trunk_outputs(trunks, answers)
            return
        fill(self.decoder, trunks)
        yield from self._questions(answers)

    def _branch_outputs(self, starts: Sequence[Branch]) -> Iterator[torch.Tensor]:
        """Outputs after some tokens, and the question, below each of some computed nodes."""
        forest = self.decoder.forest
        room = min(MOST_ROWS, forest.capacity - forest.used)
        length = max((len(tokens) for _, tokens in starts), default=1) + len(self.suffix)
        per_group, together = max(1, min(GROUP_ROWS, room) // length), max(1, room // length)
        for i in range(0, len(starts), together):
            part = starts[i : i + together]
            yield self._outputs_below([part[j : j + per_group] for j in range(0, len(part), per_group)])

    def _end_outputs(self, texts: Sequence[Sequence[int]]) -> torch.Tensor:
        forest = self.decoder.forest
        path: list[int] = []
        before: Sequence[int] = ()
        tips: list[int] = []
        # what each text adds to those before it
        tails: list[list[int]] = []
        try:
            for text in texts:
                shared = shared_start(text, before)
                parent = path[shared - 1] if shared else NO_PARENT
                tails.append(forest.insert(text[shared:], parent))
                path, before = [*path[:shared], *tails[-1]], text
                tips.append(path[-1])
            places = {tip: i for i, tip in enumerate(dict.fromkeys(tips))}
            if self.suffix:
                fill(self.decoder, tails)
                outputs = torch.cat(list(self._questions([list(places)])))
            else:
                outputs = torch.cat(list(self._tip_outputs(tails, tips)))
            return outputs[[places[tip] for tip in tips]]
        finally:
            for tip in tips:
                forest.release(tip)

    def _tip_outputs(self, tails: list[list[int]], tips: list[int]) -> Iterator[torch.Tensor]:
        """Outputs at the texts' last nodes, each once."""
        lot, done = RowLot(self.decoder, self.columns), set[int]()
        for tail, tip in zip(tails, tips, strict=True):
            if tip in done:
                continue
            done.add(tip)
            inner = [node for node in tail if node != tip]
            rows = [*lot.missing(inner), tip]
            if lot.scored and len(rows) > lot.room:
                yield lot.run()
                rows = [*lot.missing(inner), tip]
            if len(rows) > lot.room:
                fill(self.decoder, [inner])
                rows = rows[-1:]
            lot.add(rows, rows[-1:])
        if lot.scored:
            yield lot.run()

    def _questions(self, answers: list[list[int]]) -> Iterator[torch.Tensor]:
        """Outputs at the ends of the questions after all nodes of some answers, as many together as there is room."""
        forest = self.decoder.forest
        # a small cache has not room for so many
        most = min(MOST_ROWS, forest.capacity - forest.used)
        per_group = max(1, min(GROUP_ROWS, most) // len(self.suffix))
        parts = [answer[i : i + per_group] for answer in answers for i in range(0, len(answer), per_group)]
        per_forward = max(1, most // (per_group * len(self.suffix)))
        for i in range(0, len(parts), per_forward):
            yield self._question_outputs(parts[i : i + per_forward])

    def _trunk_outputs(self, trunks: list[list[int]], answers: list[list[int]]) -> Iterator[torch.Tensor]:
        """Outputs at the trunks' own nodes; a node that forwards share is computed again in each."""
        fill(self.decoder, [trunk[: len(trunk) - len(answer)] for trunk, answer in zip(trunks, answers, strict=True)])
        lot = RowLot(self.decoder, self.columns)
        for answer in answers:
            rest = answer
            while rest:
                part = rest[: MOST_ROWS - len(lot.scored)]
                lot.add(part, part)
                rest = rest[len(part) :]
                if len(lot.scored) == MOST_ROWS:
                    yield lot.run()
        if lot.scored:
            yield lot.run()

    def _question_outputs(self, parts: list[list[int]]) -> torch.Tensor:
        """Outputs at the ends of the questions after some nodes."""
        for part in parts:
            self.decoder.forest.remember_branch(part[-1])
        return self._outputs_below([[(node, ()) for node in part] for part in parts])

    def _outputs_below(self, groups: Sequence[Sequence[Branch]]) -> torch.Tensor:
        """Outputs after some tokens, and the question, below computed nodes; each group attends together."""
        forest = self.decoder.forest
        lot = RowLot(self.decoder, self.columns)
        tips: list[int] = []
        try:
            for group in groups:
                rows: list[int] = []
                ends: list[int] = []
                for node, tokens in group:
                    branch = forest.insert([*tokens, *self.suffix], parent=node)
                    tips.append(branch[-1])
                    ends.append(branch[-1])
                    rows += branch
                # an answer may quote the question, or go on with a branch's token: such nodes are computed already, or
                # belong to two branches
                scored = set(ends)
                lot.add((row for row in rows if not forest.filled[row] or row in scored), ends)
            return lot.run()
        finally:
            for tip in tips:
                forest.release(tip)
