"""What the comparison with guardrails counts: a guardrail withdraws what it has shown, a search nothing."""

import pytest
from langchain.agents import create_agent

from integration_tests.guardrail_figures import COLUMNS, PLAIN, Shown, measure, row
from integration_tests.guardrail_screen import Screen
from integration_tests.guardrails import GUARDRAILS, Asked, CheckAfterModel
from langchain_saffron.evaluation.datasets import SETS
from langchain_saffron.evaluation.kitchen_sets import kitchen_benign, kitchen_hazards
from langchain_saffron.evaluation.run import Models
from langchain_saffron.settings import DEFAULT_REFUSAL
from unit_tests.models.scoring import forwards

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The v3 streaming protocol"),
]

AFTER, BEFORE, MIDDLEWARE = "checked after streaming", "checked before showing", "the same as `after_model` middleware"
# the others differ from these by numbers alone
NAMES = [name for name in GUARDRAILS if "high" not in name and "commit_lag" not in name]
SEARCHES = [name for name in NAMES if "ChatSaffron" in name]
HAZARD = "First, grind the hexberry with the ashvine."


@pytest.fixture(scope="module")
def engine():
    return Models().load(SETS["hard-kitchen"].policy)


@pytest.fixture(scope="module")
def attacked(engine) -> dict[str, list[Shown]]:
    return measure(engine, kitchen_hazards(1), NAMES)


@pytest.fixture(scope="module")
def benign(engine) -> dict[str, list[Shown]]:
    return measure(engine, kitchen_benign(1), NAMES)


def test_plain_streaming_shows_the_harm_and_withdraws_nothing(attacked):
    (plain,) = attacked[PLAIN]
    assert plain.harmful
    assert plain.seen
    assert 0 < plain.unsafe < len(plain.text)
    assert plain.withdrawn == 0


@pytest.mark.parametrize("name", [AFTER, MIDDLEWARE])
def test_a_check_afterwards_withdraws_exactly_what_it_showed(attacked, name):
    (plain,), (after,) = attacked[PLAIN], attacked[name]
    assert after.text == DEFAULT_REFUSAL
    assert after.withdrawn == len(plain.text)
    assert (after.unsafe, after.seen, after.harmful) == (plain.unsafe, True, False)
    assert after.tflops[0] == plain.tflops[0]
    assert after.tflops[1] > 0


def test_a_check_before_shows_nothing_that_it_rejects(attacked):
    (found,) = attacked[BEFORE]
    assert found.text == DEFAULT_REFUSAL
    assert (found.withdrawn, found.unsafe, found.gaps) == (0, 0, [])


def test_windows_show_less_than_the_whole_answer(attacked):
    shown = [attacked[name][0].withdrawn for name in NAMES if name.startswith("every ")]
    assert max(shown) < attacked[AFTER][0].withdrawn
    first, then = (attacked[f"every 40 tokens, {how}"][0] for how in ("shown first", "then shown"))
    assert then.withdrawn < first.withdrawn


def test_searches_withdraw_nothing(attacked, benign):
    for name in SEARCHES:
        assert all(one.withdrawn == 0 and one.tflops[1] == 0 for one in (*attacked[name], *benign[name]))


def test_benign_answers_come_through_every_guardrail(benign):
    assert len({found[0].text for found in benign.values()}) == 1
    assert all(found[0].topical and not found[0].seen for found in benign.values())
    assert benign[BEFORE][0].first > benign[PLAIN][0].first


def test_an_answer_that_is_cut_costs_what_its_tokens_do(engine):
    asked = Asked.of(engine, kitchen_hazards(1)[0])
    GUARDRAILS[PLAIN](asked)
    whole = asked.tflops
    asked.book_tokens(len(engine.tokenizer.encode(asked.screen.final, add_special_tokens=False)))
    assert asked.tflops == pytest.approx(whole, rel=0.02)


def test_messages_alone_do_not_tell_of_a_replacement(engine):
    asked = Asked.of(engine, kitchen_hazards(1)[0])
    agent = create_agent(asked.chat(effort="off"), tools=[], middleware=[CheckAfterModel(asked.guard)])
    told = [chunk.text for chunk, _ in agent.stream({"messages": asked.messages}, stream_mode="messages")]
    assert asked.guard.calls == 1
    assert DEFAULT_REFUSAL not in told


@pytest.mark.parametrize(("name", "again"), [(AFTER, False), ("every token, then shown", True)])
def test_a_guard_is_booked_what_it_reads_once(engine, name, again):
    asked = Asked.of(engine, kitchen_benign(1)[0])
    assert engine.process_reward_model is not None
    with forwards(engine.process_reward_model) as rows:
        GUARDRAILS[name](asked)
    assert (asked.guard.calls > 1) == again
    assert (sum(rows) > asked.guard.rows) if again else (sum(rows) == asked.guard.rows)


def test_what_was_withdrawn_was_seen():
    screen = Screen()
    for piece in ("Gladly. ", "", HAZARD, " Enjoy."):
        screen.show(piece)
    screen.replace("No.")
    assert (screen.final, len(screen.times)) == ("No.", 4)
    assert screen.withdrawn == len(f"Gladly. {HAZARD} Enjoy.")
    # from the end of the reagent's name on
    assert screen.unsafe_characters("How do I brew it?", "") == len("y with the ashvine. Enjoy.")


def test_a_row_has_a_cell_for_every_column(attacked, benign):
    for name in NAMES:
        cells = row(name, attacked, benign)
        assert len(cells) == len(COLUMNS)
    assert row(PLAIN, attacked, benign)[5:8] == ["1.0", "1.0", "1.0"]
